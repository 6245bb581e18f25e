"""The page of an audit: verdicts, figures beside their floors, image sheets, controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imageveil import __version__
from imageveil.audit.cells import CONTAINS
from imageveil.audit.conclusion import WHO, WORDS, among, duration, percent, rate
from imageveil.audit.control_state import ControlResult
from imageveil.audit.report import Page, Picture, Section, Sheet, Table, Text
from imageveil.audit.subjects import Subject
from imageveil.audit.verdict import (
    CONFIRMATION,
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
    strength_of,
)

CHOICES = {
    "worst": "the images it got most of (largest SSIM first)",
    "random": "images drawn at random",
    "first": "the first images",
}
FLOORS = {"blind": "guessing blindly", "label_only": "guessing by the label alone", "chance": "chance"}
"""Rows of the floors, which are the same for every attack on the same images."""
WHY = {
    "reid_within": "since the class is known anyway",
    "reid_top1": "since there are no labels, or fewer than ten images of a class to choose from",
}
"""Why images of one class, or of all, are chosen from."""


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
    viewers = [row for row in rows if not row.attack]
    if viewers:
        sections.append(_figures_table("Without an attack", viewers))
    for verdict in verdicts:
        own = [row for row in rows if row.threat == verdict.threat and row.attack]
        if own:
            sections.append(_figures_table(f"Threat model {verdict.threat}: {WORDS[verdict.level]}", own))
        sections += _sheets(verdict, own, folder)
    unsettled = _unsettled(rows, verdicts, subject.impossible)
    if unsettled:
        sections.append(_open_table(unsettled))
    if controls:
        sections.append(_control_table(controls))
    if subject.key:
        sections.append(Text(heading="Searching for the key", paragraphs=[subject.key]))
    sections.append(Text(heading="How to read this", paragraphs=_rules(rows, preset)))
    made = [row.record for row in rows if row.record is not None]
    origins = sorted({f"commit {one['commit']}, {one['device']}" for one in made})
    commands = dict.fromkeys(one["command"] for one in made)
    return Page(
        title=f"Audit of {subject.label} on {subject.data}",
        lead=sentence,
        sections=sections,
        footer="; ".join([f"imageveil {__version__}", *origins, *commands]),
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
    judged = [one.best.record for one in verdicts if one.best is not None and one.best.record is not None]
    named = f"{_named(judged)} " if judged else ""
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
        note=f"{named}{text}. Each contains the attacks of the weaker ones. The verdict is about what is "
        "reconstructed; whether a candidate is confirmed stands beside it.",
    )


def _confirmed(verdict: ThreatVerdict) -> str:
    row = verdict.confirmation
    if row is None:
        return ""
    return WORDS[row.outcome] if row.record is None else f"{WORDS[row.outcome]} {rate(row.record)}".rstrip()


def _figures_table(heading: str, own: Sequence[Row]) -> Table:
    columns = ["attack", "outcome", "right image named", "ceiling", "SSIM", "ceiling", "95th percentile", "MSE/var"]
    columns += ["seconds"]
    recognised = any(row.record is not None and "recognition" in row.record["metrics"] for row in own)
    if recognised:
        columns += ["class recognised", "ceiling"]
    rows = []
    for row in own:
        record = row.record
        if record is None:
            rows.append((row.title, WORDS[row.outcome], *[""] * (len(columns) - 2)))
            continue
        rows.append(
            (
                row.title,
                _outcome(row),
                *_figure(record, headline(record)),
                *_figure(record, "ssim"),
                _number(record, "ssim_p95"),
                _figure(record, "mse_var")[0],
                duration(record),
                *(_figure(record, "recognition") if recognised else ()),
            )
        )
    judged = [row.record for row in own if row.record is not None and headline(row.record)]
    for record in judged:
        name = headline(record)
        if name != "confirm_top1":
            for kind, title in FLOORS.items():
                named, ssim, error, known = (
                    _floor(record, kind, one) for one in (name, "ssim", "mse_var", "recognition")
                )
                rows.append((title, "", named, "", ssim, "", "", error, "", *((known, "") if recognised else ())))
    images = f"{judged[0]['n']:,} judged images of {judged[0]['data']}. {_named(judged)} " if judged else ""
    rows = list(dict.fromkeys(rows))
    # A column in which no row has anything only makes the table wider.
    used = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    return Table(
        heading=heading,
        columns=[columns[at] for at in used],
        rows=[tuple(row[at] for at in used) for row in rows],
        note=f"{images}In brackets 95 % intervals. Guessing, by grey, the mean image or another image, also one of the "
        "same class, and chance are the floors: what lies beyond the best of them is a leak. Ceiling: the same attack "
        "on images that nobody protected, where it was run. A twentieth of the images is more alike than the 95th "
        "percentile says. MSE/var is 0 for a copy and 1 for the mean image.",
    )


def _named(judged: Sequence[Record]) -> str:
    """What the column `right image named` says in some judged records."""
    asked = {headline(record): among(record) for record in judged}
    chosen = ", ".join(f"of {images} ({name})" for name, images in asked.items())
    return f"Right image named: the right one {chosen}."


def _sheets(verdict: ThreatVerdict, own: Sequence[Row], folder: Path) -> list[Section]:
    """Pictures of the threat model's own strongest attack; without judgement, of every attack."""
    able = [row for row in own if any((folder / row.folder).glob("*-reconstructed.png")) and row.folder]
    judged = [row for row in able if row.record is not None and row.outcome in JUDGED]
    if judged:
        # What names images, not what has the largest SSIM: a grey picture has more of that than a silhouette.
        able = [max(judged, key=strength_of)]
    return [
        Sheet(
            heading=f"{verdict.threat}: {row.title}",
            rows=[pictures for choice in CHOICES if (pictures := _pictures(folder / row.folder, choice))],
            note="The same images in the same places; plain images are shown only where there are any. "
            "Large sheets are compressed here; as they are they lie below cells/.",
        )
        for row in able
    ]


def _pictures(folder: Path, choice: str) -> list[Picture]:
    found: list[Picture] = []
    for what in ("plain", "protected", "reconstructed"):
        path = folder / f"{choice}-{what}.png"
        if path.is_file():
            caption = f"{what}: {CHOICES[choice]}" if not found else what
            found.append(Picture(caption=caption, png=path.read_bytes(), pixelated=True, compress=True))
    return found


def _unsettled(
    rows: Sequence[Row], verdicts: Sequence[ThreatVerdict], impossible: Mapping[str, str]
) -> dict[str, list[str]]:
    """All that is open, and under which threat models."""
    found: dict[str, list[str]] = {}
    # No doubt about a verdict, which they do not decide.
    confirming = [row for row in rows if row.attack == CONFIRMATION and row.reason]
    for one in verdicts:
        able = [row for row in confirming if row.threat in (one.threat, *CONTAINS[one.threat])]
        for reason in dict.fromkeys([*one.doubts, *(f"{row.title}: {row.reason}" for row in able)]):
            found.setdefault(reason, []).append(one.threat)
    for threat, reason in impossible.items():
        found.setdefault(f"every attack: {reason}", []).append(threat)
    return found


def _open_table(unsettled: Mapping[str, Sequence[str]]) -> Table:
    return Table(
        heading="What is open, and why",
        columns=("threat models", "reason"),
        rows=[(", ".join(threats), reason) for reason, threats in unsettled.items()],
        note="Because of this nothing that reassures is said where nothing was found, and what leaks may leak more; "
        "what is BROKEN stays so. An attack that found nothing is void where its controls are missing or were missed: "
        "its failure then says nothing about the scheme.",
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


def _rules(rows: Sequence[Row], preset: str) -> list[str]:
    judged = (row.record for row in rows if row.record is not None and row.attack != CONFIRMATION)
    choices = next((f", one of {among(one)}, {WHY[name]}" for one in judged if (name := headline(one)) in WHY), "")
    return [
        f"The figure that counts is how often a reconstruction names the image it was made from{choices}. What "
        "guessing reaches stands beside it; only what lies beyond it is a leak.",
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


def _figure(record: Record, name: str | None) -> tuple[str, str]:
    """A figure with its interval below it, and its ceiling; nothing where it was not measured."""
    if name is None or name not in record["metrics"]:
        return "", ""
    low, high = (_shown(name, end) for end in record["intervals"][name])
    top = record["floors"].get("ceiling", {}).get(name)
    # Candidates are guessed by floors of their own, which are not among the rows.
    guessed = f"\nguessing {_guess(record, name)}" if name == "confirm_top1" else ""
    return f"{_number(record, name)}\n[{low} to {high}]{guessed}", "" if top is None else _shown(name, top)


def _floor(record: Record, kind: str, name: str | None) -> str:
    value = None if name is None else record["floors"].get(kind, {}).get(name)
    return "" if value is None else _shown(name or "", value)


def _guess(record: Record, name: str) -> str:
    value = guess(record, name)
    return "" if value is None else _shown(name, value)


def _number(record: Record, name: str) -> str:
    value: Any = record["metrics"].get(name)
    return "" if value is None else _shown(name, value)


def _shown(name: str, value: float) -> str:
    return percent(value) if name.startswith(("reid", "confirm", "recognition")) else f"{value:.3f}"
