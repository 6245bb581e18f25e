"""Confirmation: an attacker who may have images protected asks which of N candidates was.

Every deterministic scheme that is public loses this entirely. It reconstructs nothing: the attacker has the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Matcher
from imageveil.attacks.inverse_network import TrainingPairs
from imageveil.attacks.knowledge import Knowledge, Oracle
from imageveil.attacks.learning import learn, parts_of
from imageveil.errors import UsageError
from imageveil.networks.unet import EncoderClassifier, UNetConfig
from imageveil.presets.ranges import Count, Rate, Widths
from imageveil.schemes import SCHEMES
from imageveil.training.loop import epoch_batches
from imageveil.training.optimizers import set_rates

LENGTH = 128
"""Values in which a trained matcher describes an image."""


@dataclass(frozen=True, kw_only=True)
class Confirmation(Attack):
    """Protect the candidates and compare, or train a matcher on pairs.

    Attributes:
        matcher: `distance` compares with the candidates' protected selves, which under a key per image say nothing;
            `trained` has two networks learn to describe protected and plain images alike, for schemes whose keys make
            the protected selves of one image differ.
        steps: with `trained`, number of steps.
        batch: with `trained`, pairs a step, each among the others as candidates.
        lr: with `trained`, Adam's rate, falling to zero along a cosine.
        widths: with `trained`, channels of either network at full, half, quarter, ... resolution.
        renew: with `trained`, epochs after which the attacker's images are protected anew.
    """

    name: ClassVar[str] = "confirmation"
    threats: ClassVar[tuple[str, ...]] = ("oracle", "gradients")
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 10_000},
        "quick": {},
        "smoke": {"steps": 10, "batch": 32, "widths": (8, 16)},
    }

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"matcher": "trained"})

    matcher: str = "distance"
    steps: Count = 2000
    batch: Count = 256
    lr: Rate = 1e-3
    widths: Widths = (24, 48, 96, 128)
    renew: Count = 4

    def __post_init__(self) -> None:
        if self.matcher not in ("distance", "trained"):
            raise UsageError(f"there is no matcher {self.matcher!r}; use distance or trained")
        if min(self.steps, self.renew) < 1 or self.batch < 2:
            raise UsageError("steps and renew must be positive, and batch at least 2")

    @classmethod
    def threats_against(cls, scheme: str, values: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """Comparing wins wherever an image has one protected self, training is for keys per image; see `Attack`."""
        kind = SCHEMES.get(scheme)
        wanted = "trained" if kind is not None and kind.needs_ids else "distance"
        return super().threats_against(scheme, values, recipe) if values.get("matcher", cls.matcher) == wanted else ()

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Matcher:
        """Keep the oracle, or train with it; `stop_after` leaves after so many steps. See `Attack.fit`."""
        self.require(knowledge)
        assert knowledge.oracle is not None
        if self.matcher == "distance":
            if knowledge.scheme.key_per_image:
                raise UsageError(
                    f"{knowledge.scheme.name} protects every image under a key of its own, so that a candidate's "
                    "protected self says nothing; use --set matcher=trained"
                )
            return Comparison(knowledge.oracle)
        return self._train(knowledge, knowledge.oracle, conditions or Conditions(), stop_after)

    def _train(self, knowledge: Knowledge, oracle: Oracle, conditions: Conditions, stop_after: int | None) -> Matcher:
        """Contrastive learning on pairs (van den Oord et al. 2018, arXiv 1807.03748, in both directions)."""
        device, seed = conditions.device, conditions.seed
        pairs = TrainingPairs(knowledge, oracle, seed=seed, renew=self.renew, padding=2)
        torch.manual_seed(seed)
        towers = {side: EncoderClassifier(UNetConfig(widths=self.widths), LENGTH) for side in ("protected", "plain")}
        for tower in towers.values():
            device.place(tower)
        scale = nn.ParameterList([nn.Parameter(torch.tensor(2.0, device=device.torch))])
        learned = [p for tower in towers.values() for p in tower.parameters()] + list(scale.parameters())
        optimizer = torch.optim.Adam(learned, lr=self.lr)
        batch = min(self.batch, len(pairs))
        right = torch.arange(batch, device=device.torch)

        def step(number: int) -> dict[str, Tensor]:
            set_rates([optimizer], "cosine", number / self.steps)
            given = pairs.at(number // max(len(pairs) // batch, 1))
            picked = epoch_batches(len(pairs), batch, seed, number, device)
            with device.autocast():
                shown = _described(towers["protected"], device.batch(given.protected[picked]))
                known = _described(towers["plain"], device.batch(given.plain[picked]))
            scores = scale[0].exp() * shown @ known.T
            loss = F.cross_entropy(scores, right[: len(picked)]) + F.cross_entropy(scores.T, right[: len(picked)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss, "right": (scores.argmax(1) == right[: len(picked)]).float().mean()}

        networks: dict[str, nn.Module] = {**towers, "scale": scale}
        learn(
            self,
            networks,
            [optimizer],
            step,
            knowledge=knowledge,
            steps=self.steps,
            batch=batch,
            conditions=conditions,
            stop_after=stop_after,
        )
        return Descriptions(towers["protected"], towers["plain"], conditions)


class Comparison(Matcher):
    """Nearness of protected images to the candidates' protected selves."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def scores(self, protected: Tensor, candidates: Tensor) -> Tensor:
        """Minus the squared distance; see `Matcher.scores`."""
        known = self.oracle(candidates, "candidates").float().flatten(1) - 127.5
        shown = protected.float().flatten(1) - 127.5
        return 2 * shown @ known.T - known.square().sum(dim=1) - shown.square().sum(dim=1, keepdim=True)


class Descriptions(Matcher):
    """Cosine of what two networks say of a protected and of a plain image."""

    def __init__(self, shown: nn.Module, known: nn.Module, conditions: Conditions) -> None:
        self.shown, self.known, self.conditions = shown, known, conditions

    @torch.no_grad()
    def scores(self, protected: Tensor, candidates: Tensor) -> Tensor:
        """See `Matcher.scores`."""
        device = self.conditions.device
        sides = []
        for tower, images in ((self.shown, protected), (self.known, candidates)):
            parts = []
            for part in parts_of(images):
                with device.autocast():
                    parts.append(_described(tower, device.batch(part)).cpu())
            sides.append(torch.cat(parts))
        return sides[0] @ sides[1].T


def _described(tower: nn.Module, images: Tensor) -> Tensor:
    """Float32 unit vectors (N, LENGTH)."""
    return F.normalize(tower(images).float(), dim=1)
