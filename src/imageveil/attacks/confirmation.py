"""Confirmation: an attacker who may have images protected asks which of N candidates was.

Every deterministic scheme that is public loses this entirely. It reconstructs nothing: the attacker has the image.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Matcher
from imageveil.attacks.knowledge import Knowledge, Transformation


@dataclass(frozen=True, kw_only=True)
class Confirmation(Attack):
    """Protect the candidates and compare.

    Attributes:
        draws: how often each candidate is protected; several help against schemes that draw noise.
    """

    name: ClassVar[str] = "confirmation"
    threats: ClassVar[tuple[str, ...]] = ("oracle", "gradients")

    draws: int = 1

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Matcher:
        """Keep the oracle; nothing is learned. See `Attack.fit`."""
        self.require(knowledge)
        assert knowledge.oracle is not None
        return Comparison(knowledge.oracle, self.draws)


class Comparison(Matcher):
    """Nearness of protected images to the candidates' protected selves."""

    def __init__(self, oracle: Transformation, draws: int) -> None:
        self.oracle, self.draws = oracle, draws

    def scores(self, protected: Tensor, candidates: Tensor) -> Tensor:
        """Minus the squared distance to the mean over the draws; see `Matcher.scores`."""
        mean = torch.stack([self.oracle(candidates).float() for _ in range(self.draws)]).mean(dim=0).flatten(1) - 127.5
        shown = protected.float().flatten(1) - 127.5
        return 2 * shown @ mean.T - mean.square().sum(dim=1) - shown.square().sum(dim=1, keepdim=True)
