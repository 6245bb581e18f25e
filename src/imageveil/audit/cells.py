"""What an audit runs: which attack under which threat model.

A stronger threat model contains the weaker ones, so every attack is run where it first has what it uses:

- an attack that can run under all five threat models runs under the weakest one asked for, and again under those from
  which it gains (`Attack.gains`), of which `gradients` adds nothing to `oracle`;
- any other runs under each threat model it names, but not under `gradients` where it has already run under `oracle`;
- where it has nothing to try against a scheme (`Attack.threats_against`) it does not run at all;
- under `pairs` it runs once for every number of pairs asked for;
- an attack's variants beyond its first run only under the strongest of its threat models, where they get most;
- in the budget `paper`, an attack that trains runs with three seeds, since one run may have been unlucky.

The result of a threat model is the best over its own attacks and those of the threat models it contains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imageveil.attacks import ATTACKS, THREATS, Attack, make_attack
from imageveil.audit.run_attack import parse_values
from imageveil.errors import UsageError

CONTAINS: dict[str, tuple[str, ...]] = {
    "ciphertext": (),
    "recipe": ("ciphertext",),
    "pairs": ("ciphertext",),
    "oracle": ("ciphertext", "pairs"),
    "gradients": ("ciphertext", "pairs", "oracle"),
}
"""The weaker threat models that each contains."""

TRAINING = "training"
"""Name of the run directory of an attack that trains, below its cell's."""

SEEDS = {"paper": 3}
"""How often an attack that trains is run in a budget; once in the others."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack under one threat model.

    Attributes:
        threat: the threat model.
        attack: name of the attack.
        values: fields that differ from its preset's.
        pairs: number of pairs under the threat `pairs`, else None.
        repeat: which of an attack's runs it is; added to the audit's seed for the attack, not for who is judged.
    """

    threat: str
    attack: str
    values: Mapping[str, Any] = field(default_factory=dict)
    pairs: int | None = None
    repeat: int = 0

    @property
    def name(self) -> str:
        """Name of its run directory."""
        threat = self.threat if self.pairs is None else f"{self.threat}-{self.pairs}"
        repeat = [f"run-{self.repeat + 1}"] if self.repeat else []
        values = (f"{key}={quote(str(value), safe=',. ')}" for key, value in self.values.items())
        return "-".join([threat, self.attack, *values, *repeat])

    @property
    def first(self) -> bool:
        """Whether it is its attack's first variant."""
        return self.values == ATTACKS[self.attack].variants[0]

    @property
    def title(self) -> str:
        """The attack with the values that were given, as people read it."""
        given = ", ".join(f"{key} {value}" for key, value in self.values.items())
        pairs = "" if self.pairs is None else f"{self.pairs} pairs"
        repeat = f"run {self.repeat + 1}" if self.repeat else ""
        extra = ", ".join(part for part in (given, pairs, repeat) if part)
        return f"{self.attack} ({extra})" if extra else self.attack

    def make(self, preset: str) -> Attack:
        """The attack in a budget; see `make_attack`."""
        return make_attack(self.attack, self.values, preset=preset)


def trained_before(cell: Cell, cells: Sequence[Cell], folder: Path) -> dict[str, Path]:
    """Run directories of other attacks that the attacker of a cell could have run, by name; see `Conditions.trained`.

    Args:
        cell: whose threat model must contain the others'.
        cells: all of the audit.
        folder: where their directories lie.

    Returns:
        Those of an attack's first variant with the same number of run; the strongest threat model's where several
        match. Not those under `pairs`, who had little to learn from.
    """
    weaker = [threat for threat in CONTAINS[cell.threat] if threat != "pairs"]
    return {
        other.attack: folder / other.name / TRAINING
        for threat in weaker
        for other in cells
        if (other.threat, other.repeat) == (threat, cell.repeat) and other.first
    }


def check_threats(threats: Sequence[str]) -> tuple[str, ...]:
    """The threat models in their own order; all five where none is named.

    Raises:
        UsageError: there is no such threat model.
    """
    for threat in threats:
        if threat not in THREATS:
            raise UsageError(f"there is no threat model {threat!r}; choose among: {', '.join(THREATS)}")
    return tuple(threat for threat in THREATS if threat in threats or not threats)


def threats_for(
    attack: type[Attack], threats: Sequence[str], *, possible: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Those of the threat models under which an attack is run; see the module.

    Args:
        attack: the attack.
        threats: the threat models asked for.
        possible: those under which it can do something; None takes all that it names.
    """
    possible = attack.threats if possible is None else possible
    able = tuple(threat for threat in THREATS if threat in threats and threat in possible)
    if set(possible) == set(THREATS):
        able = tuple(threat for threat in able if threat == able[0] or threat in attack.gains)
    return tuple(threat for threat in able if not (threat == "gradients" and "oracle" in able))


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """Read `name` or `name:field=value,field=value`.

    Raises:
        UsageError: there is no such attack or field, or the value is of the wrong type.
    """
    name, _, rest = text.partition(":")
    if name not in ATTACKS:
        raise UsageError(f"there is no attack {name!r}; choose one of: {', '.join(sorted(ATTACKS))}")
    return name, parse_values(name, rest.split(",") if rest else ())


def variants(attack: type[Attack], preset: str) -> tuple[Mapping[str, Any], ...]:
    """The sets of values that an audit tries in a budget."""
    return attack.variants + (attack.more_variants if preset == "paper" else ())


def _asked(text: str, preset: str) -> list[tuple[str, dict[str, Any], bool]]:
    """Name, values, and whether to run under the strongest threat model alone, for what was asked for by name."""
    name, values = parse_choice(text)
    if ":" in text:
        return [(name, values, False)]
    return [(name, dict(values), number > 0) for number, values in enumerate(variants(ATTACKS[name], preset))]


def plan(
    algorithm: str,
    *,
    threats: Sequence[str] = (),
    attacks: Sequence[str] = (),
    pairs: Sequence[int] = (100,),
    preset: str = "quick",
    recipe: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Every cell of an audit, from the weakest threat model on.

    Args:
        algorithm: the published scheme, as `SCHEMES` calls it.
        threats: threat models; empty takes all.
        attacks: `name`, in each of its variants, or `name:field=value`; empty takes every attack.
        pairs: numbers of pairs under the threat `pairs`.
        preset: budget of attacks that train.
        recipe: what is public about the making of the scheme; None for nothing.

    Raises:
        UsageError: something that was named does not exist, or no attack is left.
    """
    chosen = check_threats(threats)
    wanted = [one for text in attacks or sorted(ATTACKS) for one in _asked(text, preset)]
    cells = []
    for threat in chosen:
        for name, values, strongest_only in wanted:
            possible = ATTACKS[name].threats_against(algorithm, values, recipe or {})
            runs = threats_for(ATTACKS[name], chosen, possible=possible)
            if threat in (runs[-1:] if strongest_only else runs):
                numbers: Sequence[int | None] = pairs if threat == "pairs" else (None,)
                repeats = range(SEEDS.get(preset, 1) if ATTACKS[name].budgets else 1)
                cells += [
                    Cell(threat=threat, attack=name, values=values, pairs=number, repeat=repeat)
                    for number in numbers
                    for repeat in repeats
                ]
    if not cells:
        raise UsageError(
            f"no attack asked for applies to {algorithm} under {' or '.join(chosen)}; name other attacks or threats"
        )
    return cells


def pick(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """Those of some cells that were asked for by name; all where none is named.

    Raises:
        UsageError: none of them has such a name.
    """
    known = [cell.name for cell in cells]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no cell {name!r} here; choose among: {', '.join(known)}")
    return [cell for cell in cells if not names or cell.name in names]


def left_out(threat: str, cells: Sequence[Cell], everything: Sequence[Cell], *, preset: str) -> list[str]:
    """Titles of attacks that would run under a threat model, those it contains included, but were not asked for.

    Args:
        threat: the threat model.
        cells: what is run.
        everything: what would be, had nothing been chosen.
        preset: budget of both.
    """
    able = (threat, *CONTAINS[threat])
    run = [replace(cell, values={}) for cell in cells]
    made = [cell.make(preset) for cell in cells]
    return [
        cell.title
        for cell in everything
        if cell.threat in able and (replace(cell, values={}), cell.make(preset)) not in zip(run, made, strict=True)
    ]
