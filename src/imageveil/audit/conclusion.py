"""An audit's verdict in words: one sentence for the owner, and a screen of lines."""

from collections.abc import Sequence

from imageveil.attacks import THREATS
from imageveil.audit.cells import CONTAINS
from imageveil.audit.verdict import FOUND, Record, Row, ThreatVerdict, beaten, finding, guess, headline

WHO = {
    "ciphertext": "somebody who has only protected images, their labels and other plain images of the kind",
    "recipe": "a cloud that also uses its classifier and the public recipe",
    "pairs": "somebody who also has some plain images with their protected selves",
    "oracle": "somebody who can have any image protected",
    "gradients": "somebody who holds the scheme itself",
}
WORDS = {
    "breaks": "BROKEN",
    "confirms": "CONFIRMS",
    "leaks": "leaks",
    "held": "held",
    "open": "not judged",
    "nothing": "found nothing",
    "void": "void",
    "unjudged": "not judged",
    "not run": "not run",
}
"""Levels and outcomes as people read them."""

LIKENESS = {"ssim": "SSIM", "mse_var": "a squared error over variance of"}
NAMES = {"reid_within": "of its class", "reid_top1": "of all classes", "confirm_top1": "candidates"}


def percent(value: float) -> str:
    """A rate for people."""
    return f"{value:.1%}".replace("%", " %")


def duration(record: Record) -> str:
    """An attack's seconds for people; nothing where they were not measured."""
    seconds = record["seconds"]
    if seconds is None:
        return ""
    return "< 0.1" if round(seconds, 1) == 0 else f"{seconds:.1f}"


def rate(record: Record) -> str:
    """The headline's figure with its interval and what guessing reaches, or nothing where it was not judged."""
    name = headline(record)
    if name is None:
        return ""
    low, high = record["intervals"][name]
    floor = guess(record, name)
    base = "" if floor is None else f", guessing {percent(floor)}"
    return f"{percent(record['metrics'][name])} [{percent(low)} to {percent(high)}]{base}"


def among(record: Record) -> str:
    """How many images, and which, a judged record's headline chooses from."""
    name = headline(record)
    assert name is not None
    number = record["metrics"].get("confirm_candidates" if name == "confirm_top1" else f"{name}_candidates", 0)
    return f"{number:.0f} {NAMES[name]}"


def evidence(row: Row) -> str:
    """What an attack got, as a clause."""
    record = row.record
    assert record is not None
    name = headline(record)
    assert name is not None
    metrics = record["metrics"]
    if finding(record) == "leaks" and record["intervals"][name][0] <= (guess(record, name) or 0.0):
        found = [
            f"{LIKENESS[key]} {metrics[key]:.3f} where the best guess reaches {guess(record, key):.3f}"
            for key in beaten(record)
        ]
        return f"{row.title} reaches {' and '.join(found)}"
    return f"{row.title} names the right one of {among(record)} in {rate(record)}"


def conclude(label: str, verdicts: Sequence[ThreatVerdict], *, preset: str, images: int) -> str:
    """What an owner may conclude, in one sentence, by rule.

    The weakest attackers at each level of harm are named: more than one where neither has all that the other has. Then
    who can tell which image was protected; then who was held off; then what is open.

    Args:
        label: name of the scheme.
        verdicts: one a threat model.
        preset: budget of the attacks.
        images: number of judged images.
    """
    ordered = sorted(verdicts, key=lambda one: THREATS.index(one.threat))
    clauses = []
    harm = {
        "breaks": f"images protected by {label} are not private from {{who}}: {{evidence}}",
        "leaks": "{who} gets more than guessing: {evidence}",
    }
    for level, text in harm.items():
        for one in _weakest(ordered, level):
            assert one.best is not None
            clauses.append(text.format(who=WHO[one.threat], evidence=evidence(one.best)))
    told = next(((one.threat, row) for one in ordered if (row := one.confirmation) and row.outcome in FOUND), None)
    if told is not None:
        how = "" if told[1].outcome == "confirms" else " more often than by guessing"
        clauses.append(f"{WHO[told[0]]} can tell{how} which image was protected: {evidence(told[1])}")
    held = [one for one in ordered if one.level == "held"]
    if held:
        had = f"{max(one.protected for one in held):,} protected images"
        had += "".join(f" and at most {one.pairs:,} pairs" for one in held if one.threat == "pairs")
        clauses.append(
            f"under {_list([one.threat for one in held])} no attack in the budget {preset} reconstructed more of "
            f"{images:,} judged images than guessing does, by attackers who had {had}, which proves nothing about "
            "better attacks or attackers who have more"
        )
    unsure = {
        "leaks": "under {names} more than that may come out",
        "open": "about {names} nothing that reassures can be said",
    }
    for level, text in unsure.items():
        doubtful = [one for one in ordered if one.level == level and one.doubts]
        if not doubtful:
            continue
        # A threat model inherits the doubts about those that it contains: they are counted once.
        different = dict.fromkeys(doubt for one in doubtful for doubt in one.doubts)
        rest = len(different) - 1
        more = f", and {rest} more reason{'s' if rest > 1 else ''}" if rest else ""
        names = _list([one.threat for one in doubtful])
        clauses.append(f"{text.format(names=names)} ({next(iter(different))}{more})")
    if not clauses:
        return "Nothing was judged, so nothing can be concluded."
    sentence = "; ".join(clauses) + "."
    return sentence[0].upper() + sentence[1:]


def _weakest(verdicts: Sequence[ThreatVerdict], level: str) -> list[ThreatVerdict]:
    """Those at a level whose threat model contains that of no other at this level."""
    there = [one for one in verdicts if one.level == level]
    return [one for one in there if not any(other.threat in CONTAINS[one.threat] for other in there)]


def verdict_lines(label: str, data: str, verdicts: Sequence[ThreatVerdict], sentence: str) -> list[str]:
    """The verdict as lines that fit one screen."""
    lines = [f"audit of {label} on {data}", f"{'threat':11} {'verdict':11} {'confirmed':11} best attack"]
    for one in verdicts:
        best = "" if one.best is None or one.best.record is None else f"{one.best.title}: {rate(one.best.record)}"
        lines.append(f"{one.threat:11} {WORDS[one.level]:11} {_confirmed(one):11} {best}".rstrip())
        doubts = () if one.level == "breaks" else one.doubts
        lines += [f"{'':23} open: {doubt}" for doubt in doubts[:3]]
        if len(doubts) > 3:
            lines.append(f"{'':23} and {len(doubts) - 3} more reasons; see the page")
    return [*lines, sentence]


def _confirmed(verdict: ThreatVerdict) -> str:
    """How often a candidate was confirmed, or why that is not known; nothing where it was not tried."""
    row = verdict.confirmation
    if row is None:
        return ""
    if row.record is None or row.outcome not in ("nothing", *FOUND):
        return WORDS[row.outcome]
    return percent(row.record["metrics"]["confirm_top1"])


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
