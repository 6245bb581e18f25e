"""What an audit may conclude: pure functions on records.

Of one attack, from the 95 % intervals of its record:

- it **breaks** the scheme where the lower end of the rate at which it names the right image (`reid_within` among images
  of one class; `reid_top1` without labels or with small classes) reaches one half, and twice what guessing reaches;
- it **leaks** where that rate lies above what guessing reaches, or SSIM or squared error beat the best guess by more
  than `MARGIN`;
- else it finds **nothing**.

The attack that tells which of N candidates an image was is judged by `confirm_top1` in the same way, and **confirms**
where others break. It reconstructs nothing, so it stands beside the level of a threat model and never decides it.

What guessing reaches is the best of the blind and the label-only floor and of chance. A success proves itself. A
failure counts only where the attack's controls passed; otherwise it is **void**. A threat model **held** only where at
least one attack found nothing, none found anything, none is void and none that applies was left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageveil.audit.cells import CONTAINS
from imageveil.audit.reidentification import LEAST_CANDIDATES

HALF = 0.5
TIMES_FLOOR = 2.0
MARGIN = 0.05
"""SSIM, and squared error over variance, must beat the best guess by this: fitted means beat measured ones a little."""

LEAST_JUDGED = 100
"""Fewer judged images than this say nothing that reassures."""

LEAST_SEEN = 500
"""Nor does an attacker who had fewer protected images than this to learn from."""

CONFIRMATION = "confirmation"
"""The attack that recognises and does not reconstruct."""

FOUND = ("leaks", "confirms", "breaks")
JUDGED = ("nothing", *FOUND, "void")
GUESSES = ("blind", "label_only", "chance")

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack as the verdict sees it.

    Attributes:
        title: the attack, with its values.
        threat: under which threat model it was run.
        record: its record, or None where it could not be run.
        outcome: one of `JUDGED`, `unjudged` (run, but without plain images to judge it on) or `not run`.
        attack: name of the attack; empty where somebody only looks.
        reason: why it is void, unjudged or was not run.
        folder: name of its run directory.
    """

    title: str
    threat: str
    record: Record | None
    outcome: str
    attack: str = ""
    reason: str = ""
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class ThreatVerdict:
    """What holds under one threat model.

    Attributes:
        threat: the threat model.
        level: of what is reconstructed: `breaks`; `leaks`; `held`; or `open`, where nothing was found and failures do
            not count.
        best: the attack that decides, the strongest that was judged; None where none was.
        doubts: what is open: why nothing that reassures is said, where the level is `open`; why it may be worse, where
            it is `leaks`. What `breaks` stays so.
        confirmation: what came of telling which candidate an image was; None where it was not tried.
        protected: the most protected images that an attacker had whose result counts.
        pairs: the most pairs.
    """

    threat: str
    level: str
    best: Row | None
    doubts: tuple[str, ...] = ()
    confirmation: Row | None = None
    protected: int = 0
    pairs: int = 0


def headline(record: Record) -> str | None:
    """The rate by which a record is judged, or None where it was not judged."""
    metrics = record["metrics"]
    within = ["reid_within"] if metrics.get("reid_within_candidates", 0) >= LEAST_CANDIDATES else []
    return next((name for name in ("confirm_top1", *within, "reid_top1", "reid_within") if name in metrics), None)


def guess(record: Record, metric: str) -> float | None:
    """What guessing reaches of a metric, the best over the floors, or None where no floor has it."""
    floors = record["floors"] or {}
    values = [float(floors[kind][metric]) for kind in GUESSES if metric in floors.get(kind, {})]
    if not values:
        return None
    return min(values) if metric == "mse_var" else max(values)


def strength(record: Record) -> tuple[float, float]:
    """What orders attacks: the excess of the headline's lower end over guessing, and where that is equal, SSIM.

    Attacks that name every image are equal in the first; the second tells which of them shows more of it.
    """
    name, unknown = headline(record), float("-inf")
    over = unknown if name is None else float(record["intervals"][name][0]) - (guess(record, name) or 0.0)
    return over, float(record["metrics"].get("ssim", unknown))


def finding(record: Record) -> str:
    """What an attack found: `nothing`, one of `FOUND`, or `unjudged`."""
    name = headline(record)
    if name is None:
        return "unjudged"
    low, floor = record["intervals"][name][0], guess(record, name) or 0.0
    if low >= max(HALF, TIMES_FLOOR * floor):
        return "confirms" if name == "confirm_top1" else "breaks"
    if low > floor or beaten(record):
        return "leaks"
    return "nothing"


def beaten(record: Record) -> list[str]:
    """Those of SSIM and squared error that beat the best guess by more than the margin."""
    ends = (("ssim", 0, 1), ("mse_var", 1, -1))
    return [metric for metric, end, sign in ends if _beats(record, metric, end, sign)]


def _beats(record: Record, metric: str, end: int, sign: int) -> bool:
    """Whether the cautious end of an interval lies beyond the best guess by more than the margin."""
    best = guess(record, metric)
    interval = record["intervals"].get(metric)
    return best is not None and interval is not None and sign * (interval[end] - best) > MARGIN


def outcome(record: Record, void: str | None) -> str:
    """An attack's outcome when its controls are taken into account: a failure without them is void."""
    found = finding(record)
    return "void" if found == "nothing" and void is not None else found


def judge_threat(threat: str, rows: Sequence[Row], *, missing: Sequence[str] = ()) -> ThreatVerdict:
    """The verdict of one threat model over its own attacks and those of the threat models it contains.

    Args:
        threat: the threat model.
        rows: all attacks of the audit.
        missing: attacks that reconstruct and apply but were left out by choice.
    """
    able = [row for row in rows if row.threat == threat or row.threat in CONTAINS[threat]]
    confirmation = max((row for row in able if row.attack == CONFIRMATION), key=strength_of, default=None)
    own = [row for row in able if row.attack != CONFIRMATION]
    judged = [row for row in own if row.outcome in JUDGED]
    best = max(judged, key=strength_of, default=None)
    found = None if best is None or best.outcome not in FOUND else best.outcome
    doubts = [f"{row.title}: {row.reason}" for row in own if row.outcome in ("void", "unjudged", "not run")]
    doubts += [f"{name}: not asked for" for name in missing]
    counted = [row for row in judged if row.outcome != "void"]
    doubts += sorted({doubt for row in counted if row.record is not None for doubt in _weak(row.record)})
    if not any(row.threat == threat and row.attack for row in counted):
        doubts.append(f"no attack that uses what {threat} adds was judged")
    # An attack that runs under several of the threat models raises the same doubt under each.
    different = tuple(dict.fromkeys(doubts))
    level = found or ("open" if different else "held")
    return ThreatVerdict(
        threat=threat,
        level=level,
        best=best,
        doubts=different,
        confirmation=confirmation,
        protected=_most(counted, "attacker_protected"),
        pairs=_most(counted, "attacker_pairs"),
    )


def _most(rows: Sequence[Row], figure: str) -> int:
    return int(max((row.record["metrics"].get(figure, 0) for row in rows if row.record is not None), default=0))


def strength_of(row: Row) -> tuple[float, ...]:
    """What orders the rows of an audit: the harm of their outcome, then `strength`."""
    harm = {"leaks": 1, "confirms": 2, "breaks": 2}.get(row.outcome, 0)
    return harm, *((float("-inf"),) * 2 if row.record is None else strength(row.record))


def _weak(record: Record) -> list[str]:
    found = []
    if record["n"] < LEAST_JUDGED:
        found.append(f"only {record['n']} images were judged, fewer than {LEAST_JUDGED}")
    had = record["metrics"].get("attacker_protected", LEAST_SEEN)
    if had < LEAST_SEEN:
        found.append(f"an attacker had only {had:.0f} protected images, fewer than {LEAST_SEEN}")
    if record["preset"] == "smoke":
        found.append("budget smoke is for trying things out")
    return found


def stolen(record: Record) -> bool:
    """Whether an attack used an inverse out of the owner's run directory, which no threat model grants."""
    return record["attack"] == "leaked-inverse" and "logged_mse_var" in record["metrics"]


def breaks(record: Record) -> bool:
    """Whether an attack reconstructs so much that it breaks the scheme."""
    return finding(record) == "breaks"
