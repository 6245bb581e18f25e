"""The cheapest attack that breaks each scheme, as a Markdown table made of attack records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imageveil.attacks import ATTACKS, THREATS
from imageveil.audit.cells import Cell
from imageveil.audit.conclusion import duration, percent
from imageveil.audit.control_state import ControlResult, load_controls, void_reason
from imageveil.audit.similarity import mean_removed
from imageveil.audit.verdict import Record, breaks, guess, headline, stolen, strength
from imageveil.errors import UsageError
from imageveil.records import made_on, read_records
from imageveil.schemes import SCHEMES

NEEDS = {
    "ciphertext": "{images}",
    "recipe": "{images}, the cloud's classifier, the recipe",
    "pairs": "{pairs:,} pairs",
    "oracle": "any image protected",
    "gradients": "the scheme itself",
}
STOLEN = "the owner's run directory, stolen"
LOOKING, SUBTRACTING = "looking", "looking, the mean subtracted"
"""What the table calls viewers, who need no attack."""

HEAD = (
    "| scheme | data | cheapest attack that breaks it | threat | what the attacker has | seconds | SSIM "
    "| named within class | guessing |\n|---|---|---|---|---|---|---|---|---|"
)


def cost(record: Record) -> tuple[int, float, float]:
    """How much an attack asks for: threat model (theft last), then pairs, then protected images, then seconds."""
    metrics = record["metrics"]
    needed = metrics.get("attacker_pairs", metrics.get("attacker_protected", 0.0))
    rank = len(THREATS) if stolen(record) else THREATS.index(record["threat"])
    return rank, float(needed), float(record["seconds"] or 0.0)


def cheapest(records: Sequence[Record]) -> Record | None:
    """The cheapest of one scheme's records that breaks it, or None."""
    return min((one for one in records if breaks(one)), key=cost, default=None)


def as_attacks(record: Any) -> list[Record]:
    """What the table takes of a record: nothing where it says nothing of a reconstruction.

    Viewers run no attack, and are taken for attackers where that is enough to break a scheme: one who looks at a single
    protected image as it is, and one who subtracts the mean of many.
    """
    # Folders of runs hold other JSON files too.
    if not isinstance(record, dict) or record.get("task") not in ("attack", "similarity"):
        return []
    if record["task"] == "similarity":
        ways = ((LOOKING, record, 1.0), (SUBTRACTING, mean_removed(record), float(record["n"])))
        viewers: list[Record] = [
            seen
            | {"attack": attack, "threat": "ciphertext", "seconds": None}
            | {"metrics": seen["metrics"] | {"attacker_protected": had}}
            for attack, seen, had in ways
        ]
        return [viewer for viewer in viewers if breaks(viewer)]
    return [] if headline(record) in (None, "confirm_top1") else [record]


def breaks_table(*folders: Path) -> str:
    """A Markdown table over all records of attacks and viewers below some folders, one line a scheme and data set.

    Where no attack breaks a scheme the line shows the one that came nearest, and says so.

    Raises:
        UsageError: there is no such record.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in (one for folder in folders if folder.is_dir() for one in read_records(folder)):
        for taken in as_attacks(record):
            found.setdefault((taken["scheme"], taken["data"]), []).append(taken)
    if not found:
        names = " and ".join(map(str, folders))
        raise UsageError(f"{names} holds no record of an attack; make some with: imageveil attack ... --out FILE")
    controls = load_controls()
    lines = [_line(records, controls) for _, records in sorted(found.items())]
    used = [record for records in found.values() for record in records]
    return "\n".join([HEAD, *lines, "", made_on(used)])


def _images(record: Record) -> str:
    """The images that an attacker had without pairs, in words."""
    protected, plain = (int(record["metrics"].get(f"attacker_{kind}", 0)) for kind in ("protected", "plain"))
    kind = ATTACKS.get(record["attack"])
    if record["attack"] in (LOOKING, SUBTRACTING) or (kind is not None and not kind.needs_plain):
        return f"{protected:,} protected image{'s' if protected > 1 else ''}"
    return f"{protected:,} protected, {plain:,} plain images"


def _line(records: Sequence[Record], controls: Sequence[ControlResult]) -> str:
    best = cheapest(records)
    note = ""
    if best is None:
        best = max(records, key=strength)
        note = f"none of {len({one['attack'] for one in records})} breaks it; nearest: "
    name, metrics = headline(best), best["metrics"]
    assert name is not None
    low, high = best["intervals"][name]
    needs = NEEDS[best["threat"]].format(images=_images(best), pairs=int(metrics.get("attacker_pairs", 0)))
    if stolen(best):
        needs = STOLEN
    algorithm = best["scheme"] if best["scheme"] in SCHEMES else "learned"
    void = ""
    if note and (
        best.get("void") or void_reason(Cell(threat=best["threat"], attack=best["attack"]), algorithm, controls)
    ):
        void = " (its controls are open)"
    cells = (
        best["scheme"],
        best["data"],
        f"{note}{best['attack']}{void}",
        best["threat"],
        needs,
        duration(best),
        f"{metrics['ssim']:.3f}",
        f"{percent(metrics[name])} [{percent(low)} to {percent(high)}]"
        + ("" if name == "reid_within" else f" ({name})"),
        percent(guess(best, name) or 0.0),
    )
    return f"| {' | '.join(cells)} |"
