"""Which positive controls passed: read from records, or from the summary inside the package.

The rule: an attack's failure counts only if its controls passed, and at least one of them vouches for it.

- A control speaks for its own form of an attack alone (`form`): another network may fail where this one works. Nor does
  one that was run with a larger budget speak for a smaller one.
- Those on the audited algorithm decide; where none of them vouches, for a network those on other networks; else all of
  that form.
- One that asks an attack to get little (`ControlResult.vouches`) can be missed, but never vouches: an attack that does
  nothing passes it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from imageveil.audit.cells import Cell
from imageveil.audit.control_table import CONTROLS, command
from imageveil.errors import UsageError
from imageveil.records import read_records
from imageveil.schemes import SCHEMES

NETWORKS = ("learned", "random-conv", "blur")
"""Schemes that are networks or filters: a control on one of them speaks for the others."""

ERRORS = ("mse_var",)
"""Figures of which little is a success."""

GENERATORS = {None: "unet", 1: "pixel"}
"""Of the GAN attack, by the pixels on the side of a scheme's blocks; `block` for all others, as `gan` chooses."""


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
        preset: budget of the attack, or `exact`.
        at_most: the figure must stay below the target.
        tolerance: where given, the figure must lie this near to the target.
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
    preset: str = "exact"
    at_most: bool = False
    tolerance: float | None = None

    @property
    def form(self) -> str:
        """Which form of the attack it was; see `form`."""
        same = (self.attack, self.scheme, self.threat, self.metric)
        rows = (row.values for row in CONTROLS if (row.attack, row.scheme, row.threat, row.metric) == same)
        return form(self.attack, self.scheme, next(rows, None))

    @property
    def vouches(self) -> bool:
        """Whether passing shows that the attack works."""
        return not self.at_most or self.metric in ERRORS

    @property
    def wanted(self) -> str:
        """The target in words."""
        margin = "" if self.tolerance is None else f" ± {self.tolerance:g}"
        return f"{'below ' if self.at_most else ''}{self.target:g}{margin}"


def summarise(records: Iterable[dict[str, Any]]) -> list[ControlResult]:
    """The controls among some records, in their order."""
    found = []
    for one in records:
        if isinstance(one, dict) and one.get("task") == "control":
            metric, target = next(iter(one["target"].items()))
            common = {name: one[name] for name in ("attack", "scheme", "data", "threat", "passed", "commit", "preset")}
            kind = {"at_most": "at_most" in one["target"], "tolerance": one["target"].get("tolerance")}
            value = one["metrics"][metric]
            found.append(ControlResult(**common, **kind, metric=metric, target=target, value=value))
    return found


def as_json(controls: Sequence[ControlResult]) -> str:
    """The text of the summary inside the package."""
    return json.dumps([asdict(control) for control in controls], indent=1) + "\n"


def load_controls(folder: Path | None = None) -> list[ControlResult]:
    """The controls that were recorded for the package; those in a folder of records take the place of the same ones.

    Raises:
        UsageError: the folder is missing or holds no control.
    """
    text = (resources.files("imageveil") / "assets" / "controls.json").read_text(encoding="utf-8")
    shipped = [ControlResult(**one) for one in json.loads(text)]
    if folder is None:
        return shipped
    if not folder.is_dir():
        raise UsageError(f"--controls {folder} is no folder; make one with: {command()}")
    found = summarise(read_records(folder))
    if not found:
        raise UsageError(f"--controls {folder} holds no control; make them with: {command(out=str(folder))}")
    own = {(one.attack, one.scheme, one.threat, one.metric, one.preset) for one in found}
    kept = [one for one in shipped if (one.attack, one.scheme, one.threat, one.metric, one.preset) not in own]
    return found + kept


def form(attack: str, algorithm: str, values: Mapping[str, Any] | None = None) -> str:
    """Which form of an attack is run, as words to follow its name; empty where it has but one.

    Args:
        attack: name of the attack.
        algorithm: the published scheme, as `SCHEMES` calls it.
        values: fields of the attack that were given.
    """
    if attack == "gan":
        block = getattr(SCHEMES.get(algorithm), "default_block", None)
        chosen = (values or {}).get("generator", "auto")
        return f" with its {GENERATORS.get(block, 'block') if chosen == 'auto' else chosen} generator"
    if attack == "gradients":
        given = {"prior": "image", "start": "mean"} | dict(values or {})
        if given["prior"] == "network":
            return " over the weights of a network"
        # Alone from the mean it fits what was seen and misses the image, also where the image is there to be found.
        return " from the mean image" if given["start"] == "mean" else ""
    return ""


def controlled_as(cell: Cell) -> str:
    """The attack whose controls speak for a cell: `leaked-inverse` trains an inverse network if it has none stolen."""
    trains = cell.attack == "leaked-inverse" and "stolen" not in cell.values
    return "inverse-network" if trains else cell.attack


def relevant(
    cell: Cell, algorithm: str, controls: Sequence[ControlResult], *, preset: str = "quick"
) -> list[ControlResult]:
    """The controls that speak for an attack on an algorithm in a budget; see the module."""
    attack, wanted = controlled_as(cell), form(cell.attack, algorithm, cell.values)
    budgets = ("exact", "smoke") if preset == "smoke" else ("exact", "quick", preset)
    own = [one for one in controls if (one.attack, one.form) == (attack, wanted) and one.preset in budgets]
    same = [one for one in own if one.scheme == algorithm]
    alike = [one for one in own if algorithm in NETWORKS and one.scheme in NETWORKS]
    return next((some for some in (same, alike) if any(one.vouches for one in some)), own)


def without_labels(record: Mapping[str, Any]) -> str | None:
    """Why the failure of an attack that used no labels would say nothing: its controls did. None for all others."""
    return "its controls used labels, and this run used none" if record["metrics"].get("labels") == 0 else None


def void_reason(cell: Cell, algorithm: str, controls: Sequence[ControlResult], *, preset: str = "quick") -> str | None:
    """Why an attack's failure on an algorithm would say nothing, or None where its controls passed."""
    speaking = relevant(cell, algorithm, controls, preset=preset)
    for control in speaking:
        if not control.passed:
            return (
                f"it missed its control on {control.scheme}: {control.metric} {control.value:.3f}, "
                f"target {control.wanted}"
            )
    if any(control.vouches for control in speaking):
        return None
    attack, kind = controlled_as(cell), form(cell.attack, algorithm, cell.values)
    none = f"no control of {'this attack' if attack == cell.attack else attack}{kind} is recorded"
    if any(row.attack == attack and form(row.attack, row.scheme, row.values) == kind for row in CONTROLS):
        return f"{none}; make one with: {command(attack)}, and give --controls FOLDER"
    return f"{none}, and the table of controls has none to make"
