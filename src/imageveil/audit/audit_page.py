"""The page of an audit: verdicts, figures beside their floors, image sheets, controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imageveil import __version__
from imageveil.audit.conclusion import WHO, WORDS, duration, percent, rate
from imageveil.audit.control_state import ControlResult
from imageveil.audit.report import Page, Picture, Section, Sheet, Table, Text
from imageveil.audit.subjects import Subject
from imageveil.audit.verdict import (
    FOUND,
    HALF,
    JUDGED,
    LEAST_JUDGED,
    MARGIN,
    TIMES_FLOOR,
    Record,
    Row,
    ThreatVerdict,
    guess,
    headline,
)

CHOICES = {
    "worst": "the images it got most of (largest SSIM first)",
    "random": "images drawn at random",
    "first": "the first images",
}
FLOORS = ("blind", "label_only", "ceiling")


def audit_page(
    subject: Subject,
    rows: Sequence[Row],
    verdicts: Sequence[ThreatVerdict],
    sentence: str,
    *,
    controls: Sequence[ControlResult],
    folder: Path,
    preset: str,
) -> Page:
    """Put the page together.

    Args:
        subject: what was audited.
        rows: every attack, run or not.
        verdicts: one a threat model.
        sentence: what an owner may conclude.
        controls: those that speak for the attacks.
        folder: where the cells' sheets are.
        preset: budget of attacks that train.
    """
    sections: list[Section] = []
    if verdicts:
        sections.append(_verdict_table(verdicts))
    for verdict in verdicts:
        own = [row for row in rows if row.threat == verdict.threat]
        if own:
            sections.append(_threat_table(verdict, own))
        sections += _sheets(verdict, own, folder)
    unjudged = [row for row in rows if row.outcome in ("void", "unjudged", "not run")]
    if unjudged or subject.impossible:
        sections.append(_unjudged_table(unjudged, subject.impossible))
    if controls:
        sections.append(_control_table(controls))
    if subject.key:
        sections.append(Text(heading="Searching for the key", paragraphs=[subject.key]))
    sections.append(Text(heading="How to read this", paragraphs=_rules(preset)))
    made = next((row.record for row in rows if row.record is not None), None)
    origin = "" if made is None else f" ({made['commit']}), on {made['device']}: {made['command']}"
    return Page(
        title=f"Audit of {subject.label} on {subject.data}",
        lead=sentence,
        sections=sections,
        footer=f"imageveil {__version__}{origin}",
    )


def _verdict_table(verdicts: Sequence[ThreatVerdict]) -> Table:
    rows = []
    for one in verdicts:
        best = one.best
        record = None if best is None else best.record
        rows.append(
            (
                one.threat,
                WORDS[one.level],
                "" if best is None else best.title,
                "" if record is None else rate(record),
                "" if record is None else _number(record, "ssim"),
                "" if record is None else _guess(record, "ssim"),
                _confirmed(one),
            )
        )
    text = "; ".join(f"{one.threat}: {WHO[one.threat]}" for one in verdicts)
    return Table(
        heading="Verdict by threat model",
        columns=(
            "threat model",
            "verdict",
            "best attack",
            "right image named",
            "SSIM",
            "best guess",
            "candidate confirmed",
        ),
        rows=rows,
        note=f"{text}. Each contains the attacks of the weaker ones. The verdict is about what is reconstructed; "
        "whether a candidate is confirmed stands beside it.",
    )


def _confirmed(verdict: ThreatVerdict) -> str:
    row = verdict.confirmation
    if row is None:
        return ""
    return WORDS[row.outcome] if row.record is None else f"{WORDS[row.outcome]} {rate(row.record)}".rstrip()


def _threat_table(verdict: ThreatVerdict, own: Sequence[Row]) -> Table:
    kinds = [kind.replace("_", "-") for kind in FLOORS]
    columns = ["attack", "outcome", "right image named", *kinds, "SSIM", *kinds, "MSE/var", "seconds"]
    recognised = any(row.record is not None and "recognition" in row.record["metrics"] for row in own)
    if recognised:
        columns += ["class recognised", *kinds]
    rows = []
    for row in own:
        record = row.record
        if record is None:
            rows.append((row.title, WORDS[row.outcome], *[""] * (len(columns) - 2)))
            continue
        name = headline(record)
        rows.append(
            (
                row.title,
                _outcome(row),
                _rate(record, name),
                *_all_floors(record, name),
                _number(record, "ssim"),
                *_all_floors(record, "ssim"),
                _number(record, "mse_var"),
                duration(record),
                *((_number(record, "recognition"), *_all_floors(record, "recognition")) if recognised else ()),
            )
        )
    why = "Nothing that reassures is said" if verdict.level == "open" else "It may be worse"
    doubts = f" {why} because of: {'; '.join(verdict.doubts)}." if verdict.doubts else ""
    judged = next((row.record for row in own if row.record is not None and headline(row.record)), None)
    images = "" if judged is None else f"{judged['n']:,} judged images of {judged['data']}. "
    # A column in which no row has anything only makes the table wider.
    used = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    return Table(
        heading=f"Threat model {verdict.threat}: {WORDS[verdict.level]}",
        columns=[columns[at] for at in used],
        rows=[tuple(row[at] for at in used) for row in rows],
        note=f"{images}With 95 % intervals. Blind and label-only: the best of what guessing reaches; ceiling: the same "
        f"attack on images that nobody protected, where it was run. MSE/var is 0 for a copy and 1 for the mean image."
        f"{doubts}",
    )


def _sheets(verdict: ThreatVerdict, own: Sequence[Row], folder: Path) -> list[Section]:
    """Pictures of the threat model's own strongest attack; without judgement, of every attack."""
    able = [row for row in own if any((folder / row.folder).glob("*-reconstructed.png")) and row.folder]
    judged = [row for row in able if row.record is not None and row.outcome in JUDGED]
    if judged:
        best = max(judged, key=lambda row: float(row.record["metrics"]["ssim"]) if row.record else 0.0)
        first = verdict.best if verdict.best in judged else best
        able = [first] if first is not None else []
    return [
        Sheet(
            heading=f"{verdict.threat}: {row.title}",
            rows=[pictures for choice in CHOICES if (pictures := _pictures(folder / row.folder, choice))],
            note="The same images in the same places; plain images are shown only where there are any.",
        )
        for row in able
    ]


def _pictures(folder: Path, choice: str) -> list[Picture]:
    found: list[Picture] = []
    for what in ("plain", "protected", "reconstructed"):
        path = folder / f"{choice}-{what}.png"
        if path.is_file():
            caption = f"{what}: {CHOICES[choice]}" if not found else what
            found.append(Picture(caption=caption, png=path.read_bytes(), pixelated=True))
    return found


def _unjudged_table(rows: Sequence[Row], impossible: Mapping[str, str]) -> Table:
    lines = [(row.title, row.threat, WORDS[row.outcome], row.reason) for row in rows]
    lines += [("every attack", threat, WORDS["not run"], reason) for threat, reason in impossible.items()]
    return Table(
        heading="What could not be judged, and why",
        columns=("attack", "threat model", "state", "reason"),
        rows=list(dict.fromkeys(lines)),
        note="An attack that found nothing is void where its controls are missing or were missed: its failure "
        "then says nothing about the scheme.",
    )


def _control_table(controls: Sequence[ControlResult]) -> Table:
    rows = [
        (
            one.attack,
            one.scheme,
            one.data,
            one.threat,
            one.metric,
            one.wanted,
            f"{one.value:.3f}",
            "passed" if one.passed else "MISSED",
        )
        for one in controls
    ]
    return Table(
        heading="Controls: where these attacks are known to work",
        columns=("attack", "on", "images", "threat model", "figure", "target", "measured", "state"),
        rows=rows,
        note="Those that speak for this scheme: on its own algorithm, else on networks for a network, else all of the "
        "same form of the attack. One whose figure must stay below a target, unless it is an error, can be missed but "
        "vouches for nothing.",
    )


def _rules(preset: str) -> list[str]:
    return [
        "The figure that counts is how often a reconstruction names the image it was made from, among others of the "
        "same class, since the class is known anyway. What guessing reaches stands beside it; only what lies beyond it "
        "is a leak.",
        f"BROKEN: the lower end of that rate's interval reaches {percent(HALF)} and {TIMES_FLOOR:g} times guessing. "
        "Leaks: the lower end lies above guessing, or SSIM or squared error over variance beat the best guess by more "
        f"than {MARGIN:g}. Held: every attack that applies was judged on {LEAST_JUDGED} images or more, found none of "
        "this, and passed its controls. Not judged: anything else. CONFIRMS: who can have images protected tells which "
        "of several candidates was protected as often as BROKEN asks; that reconstructs nothing, and counts by itself.",
        f"Attacks that train were given the budget {preset}. That they fail shows that these attacks fail within this "
        "budget, and nothing about better ones. This page shows plain images: keep it to yourself.",
    ]


def _outcome(row: Row) -> str:
    void = row.record is not None and bool(row.record.get("void"))
    return f"{WORDS[row.outcome]} (its controls are open)" if void and row.outcome in FOUND else WORDS[row.outcome]


def _rate(record: Record, name: str | None) -> str:
    if name is None:
        return ""
    low, high = record["intervals"][name]
    return f"{percent(record['metrics'][name])} [{percent(low)} to {percent(high)}]"


def _all_floors(record: Record, name: str | None) -> list[str]:
    return [_floor(record, kind, name) for kind in FLOORS]


def _floor(record: Record, kind: str, name: str | None) -> str:
    value = None if name is None else (record["floors"] or {}).get(kind, {}).get(name)
    if value is None and kind == "blind" and name == "confirm_top1":
        value = record["floors"].get("chance", {}).get(name)
    return "" if value is None else _shown(name or "", value)


def _guess(record: Record, name: str) -> str:
    value = guess(record, name)
    return "" if value is None else _shown(name, value)


def _number(record: Record, name: str) -> str:
    value: Any = record["metrics"].get(name)
    return "" if value is None else _shown(name, value)


def _shown(name: str, value: float) -> str:
    return percent(value) if name.startswith(("reid", "confirm", "recognition")) else f"{value:.3f}"
