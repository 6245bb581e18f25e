"""The contract of an attack and the registry.

An attack is a frozen configuration. `fit` learns from a `Knowledge` and returns what it learned: a `Reconstruction`,
which turns protected images into guesses of the plain ones, or a `Matcher`, which only recognises a plain image.
An attack that trains networks has budgets, sets of values by the name of a preset (`paper`, `quick`, `smoke`), and
trains through `imageveil.attacks.learning`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from imageveil.attacks.knowledge import THREATS, Knowledge
from imageveil.errors import UsageError
from imageveil.training.device import Device, has_fast_bf16

ATTACKS: dict[str, type["Attack"]] = {}
"""Every attack class by its name in records and on the command line."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under what an attack runs.

    Attributes:
        seed: decides every random choice.
        device: where networks of attacks that learn are trained.
        folder: run directory of an attack that learns, for resuming; None keeps nothing.
        trained: run directories of attacks by name that this attacker may have run before on the same scheme. What is
            finished there need not be trained again.
    """

    seed: int = 0
    device: Device = field(default_factory=lambda: Device(torch=torch.device("cpu"), bf16=has_fast_bf16()))
    folder: Path | None = None
    trained: Mapping[str, Path] = field(default_factory=dict)


class Reconstruction(ABC):
    """What an attack that reconstructs has learned.

    Attributes:
        seconds_before: what the training of networks took that this attack found trained; see `Conditions.trained`.
    """

    seconds_before: float = 0.0

    @abstractmethod
    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Guess plain images.

        Args:
            protected: protected images, uint8 (N, 3, H', W').
            labels: their classes (N,), which the cloud has; None where the data has none.

        Returns:
            uint8 (N, 3, H', W').
        """

    def figures(self) -> dict[str, float]:
        """Further figures for the record, for example the number of keys tried."""
        return {}


class Matcher(ABC):
    """What an attack has learned that only tells which plain image was protected."""

    @abstractmethod
    def scores(self, protected: Tensor, candidates: Tensor) -> Tensor:
        """Hold protected images against plain candidates.

        Args:
            protected: uint8 (N, 3, H', W').
            candidates: plain images, uint8 (M, 3, H, W).

        Returns:
            float (N, M), larger where the candidate is likelier.
        """


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A configuration of an attack; printing it shows every value.

    A subclass sets `name`, `threats` and `schemes`, is a frozen keyword-only dataclass, and is registered by being
    defined.

    Attributes:
        name: the attack's name in records.
        threats: the threat models under which it can run.
        gains: of an attack that can run under all threat models, those under which it gets more than under the weakest,
            so that an audit runs it there too.
        schemes: the published algorithms it applies to; None for all.
        needs_plain: whether it has a use for unpaired plain images.
        needs_classifier: whether it has a use for the cloud's classifier, which takes long to train.
        budgets: for an attack that trains, the values of each preset that differ from its defaults.
        more_variants: those that it tries in the budget `paper` only.
        variants: the sets of values that an audit tries; those beyond the first only under the strongest of its threat
            models.
    """

    name: ClassVar[str]
    threats: ClassVar[tuple[str, ...]] = THREATS
    gains: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...] | None] = None
    needs_plain: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = False
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    more_variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            if ATTACKS.get(cls.name, cls).__qualname__ != cls.__qualname__:
                raise ValueError(f"two attacks are called {cls.name!r}")
            ATTACKS[cls.name] = cls

    @abstractmethod
    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction | Matcher:
        """Learn from what the attacker has.

        Args:
            knowledge: all that the attack may use.
            conditions: seed, device and run directory; None takes the defaults.

        Raises:
            UsageError: the attack cannot run under this threat model or on this scheme; see `require`.
        """

    def require(self, knowledge: Knowledge) -> None:
        """Refuse what the attack cannot work with.

        Raises:
            UsageError: the threat model or the scheme is none of the attack's, or its classifier is missing.
        """
        if knowledge.threat not in self.threats:
            able = " or ".join(self.threats)
            raise UsageError(f"{self.name} cannot run under the threat {knowledge.threat!r}; use --threat {able}")
        if not self.applies_to(knowledge.scheme.name):
            raise UsageError(
                f"{self.name} does not apply to {knowledge.scheme.name}; it is for {', '.join(self.schemes or ())}"
            )
        if self.needs_classifier and knowledge.classifier is None:
            raise UsageError(f"{self.name} needs the cloud's classifier")

    @classmethod
    def values(cls) -> list[str]:
        """Names of the fields."""
        return [one.name for one in fields(cls)]

    @classmethod
    def applies_to(cls, scheme: str) -> bool:
        """Whether the attack is made for schemes of this kind."""
        return cls.schemes is None or scheme in cls.schemes

    @classmethod
    def threats_against(cls, scheme: str, values: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """The threat models under which a configuration can do something against a scheme; empty for none.

        Args:
            scheme: the published algorithm.
            values: fields that differ from a preset's.
            recipe: what is public about the making of the scheme; see `Knowledge.recipe`.
        """
        return cls.threats if cls.applies_to(scheme) else ()


def make_attack(name: str, values: Mapping[str, Any] | None = None, *, preset: str = "quick") -> Attack:
    """Build an attack by name.

    Args:
        name: a name of `ATTACKS`.
        values: fields that differ from the preset's.
        preset: the budget of an attack that trains; the others have none.

    Raises:
        UsageError: there is no such attack, or it has no such field or preset.
    """
    if name not in ATTACKS:
        raise UsageError(f"there is no attack {name!r}; choose one of: {', '.join(sorted(ATTACKS))}")
    kind = ATTACKS[name]
    if kind.budgets and preset not in kind.budgets:
        raise UsageError(f"{name} has no preset {preset!r}; use one of: {', '.join(kind.budgets)}")
    try:
        return kind(**{**kind.budgets.get(preset, {}), **(values or {})})
    except TypeError as error:
        raise UsageError(f"{name} has no such value; its values are: {', '.join(kind.values()) or 'none'}") from error
