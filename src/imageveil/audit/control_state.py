"""Which positive controls passed: read from records, or from the summary inside the package.

The rule: an attack's failure counts only if its controls passed. Those on the audited algorithm decide; where there are
none, for a network those on other networks; else all of the attack's controls. No control at all is as good as a
missed one.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from imageveil.errors import UsageError
from imageveil.records import read_records

NETWORKS = ("learned", "random-conv", "blur")
"""Schemes that are networks or filters: a control on one of them speaks for the others."""


@dataclass(frozen=True, kw_only=True)
class ControlResult:
    """One control that was run.

    Attributes:
        attack: name of the attack.
        scheme: where it must work.
        data: images it was run on.
        threat: under which threat model.
        metric: the figure that is judged.
        target: what it must reach.
        value: what it reached.
        passed: whether that was enough.
        commit: of the code that was run.
    """

    attack: str
    scheme: str
    data: str
    threat: str
    metric: str
    target: float
    value: float
    passed: bool
    commit: str


def summarise(records: Iterable[dict[str, Any]]) -> list[ControlResult]:
    """The controls among some records, in their order."""
    found = []
    for one in records:
        if one["task"] == "control":
            metric, target = next(iter(one["target"].items()))
            common = {name: one[name] for name in ("attack", "scheme", "data", "threat", "passed", "commit")}
            found.append(ControlResult(**common, metric=metric, target=target, value=one["metrics"][metric]))
    return found


def as_json(controls: Sequence[ControlResult]) -> str:
    """The text of the summary inside the package."""
    return json.dumps([asdict(control) for control in controls], indent=1) + "\n"


def load_controls(folder: Path | None = None) -> list[ControlResult]:
    """The controls in a folder of records, or those recorded for the package.

    Raises:
        UsageError: the folder is missing or holds no control.
    """
    if folder is None:
        text = (resources.files("imageveil") / "assets" / "controls.json").read_text(encoding="utf-8")
        return [ControlResult(**one) for one in json.loads(text)]
    if not folder.is_dir():
        raise UsageError(
            f"--controls {folder} is no folder; make one with: imageveil controls --data DATA --out FOLDER"
        )
    found = summarise(read_records(folder))
    if not found:
        raise UsageError(f"--controls {folder} holds no control; make them with: imageveil controls --out {folder}")
    return found


def relevant(attack: str, algorithm: str, controls: Sequence[ControlResult]) -> list[ControlResult]:
    """The controls that speak for an attack on an algorithm; see the module."""
    own = [control for control in controls if control.attack == attack]
    same = [control for control in own if control.scheme == algorithm]
    alike = [control for control in own if algorithm in NETWORKS and control.scheme in NETWORKS]
    return same or alike or own


def void_reason(attack: str, algorithm: str, controls: Sequence[ControlResult]) -> str | None:
    """Why an attack's failure on an algorithm would say nothing, or None where its controls passed."""
    speaking = relevant(attack, algorithm, controls)
    if not speaking:
        return "no control of this attack is recorded"
    for control in speaking:
        if not control.passed:
            return (
                f"it missed its control on {control.scheme}: {control.metric} {control.value:.3f}, "
                f"target {control.target:g}"
            )
    return None
