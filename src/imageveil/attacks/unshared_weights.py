"""Unshared weight attack, "UWA": a map of colours of its own for every pixel position, learned from pairs or a GAN.

Sirichotedumrong et al., GCCE 2019, and arXiv 2006.01342, section IV. Made for a pixel-wise key that all images share:
there the right answer is one affine map a position. What changes places is out of its reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.learning import learn, seeded
from imageveil.attacks.unpaired import ADAM_BETAS, Generated, Unpaired, duel, update
from imageveil.errors import UsageError
from imageveil.networks.attackers import AttackDiscriminator, PositionMap, start_weights
from imageveil.presets.ranges import Count, Natural, Rate
from imageveil.training.loop import epoch_batches, require_size

DISCRIMINATOR_RATE = 2e-4
MOMENTUM, DECAY = 0.9, 5e-4


@dataclass(frozen=True, kw_only=True)
class UnsharedWeights(Attack):
    """The unshared weight attack.

    With pairs the loss is the squared error, summed over an image's values and averaged over the batch: as a mean over
    the positions too, every position's gradient would be so small that nothing is learned at this rate. Without pairs
    the map plays against the discriminator of the GAN attack, which learns as it does there.

    Attributes:
        hidden: hidden units of every position with ReLU; 0 for an affine map.
        pairs: how many pairs to use at most.
        epochs: times that every pair or protected image is seen.
        batch: images a step.
        full_batch: without pairs; see `gan`.
        rate: learning rate, divided by 10 after 4/7 and after 6/7 of the epochs (40 and 60 of 70).
        protected: without pairs, how many protected images to use at most; None takes all.
    """

    name: ClassVar[str] = "unshared-weights"
    gains: ClassVar[tuple[str, ...]] = ("pairs", "oracle", "gradients")
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"pairs": 25000, "full_batch": True},
        "quick": {"protected": 10000},
        "smoke": {"epochs": 2, "pairs": 256, "protected": 256},
    }

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"hidden": 16})

    hidden: Natural = 0
    pairs: Count = 1000
    epochs: Count = 70
    batch: Count = 128
    full_batch: bool = False
    rate: Rate = 0.1
    protected: Count | None = None

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise UsageError(f"hidden must be 0 or more, not {self.hidden}")

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Reconstruction:
        """Learn the map of every position; see `Attack.fit`.

        Args:
            knowledge: of which the pairs are used where there are any, otherwise protected and unpaired plain images.
            conditions: seed, device and run directory.
            stop_after: leave after this many steps, as if interrupted.
        """
        self.require(knowledge)
        conditions = conditions or Conditions()
        device, (height, width) = conditions.device, knowledge.protected.shape[-2:]
        [network] = seeded(conditions, lambda: PositionMap(height, width, self.hidden))
        optimizer = torch.optim.SGD(network.parameters(), lr=self.rate, momentum=MOMENTUM, weight_decay=DECAY)
        networks = {"map": network}
        optimizers: list[torch.optim.Optimizer] = [optimizer]
        paired = knowledge.known_pairs is not None or knowledge.oracle is not None
        if not paired:
            require_size(knowledge.plain, AttackDiscriminator.SMALLEST, "the discriminator")
            [discriminator] = seeded(conditions, AttackDiscriminator, start=start_weights)
            networks["discriminator"] = discriminator
            optimizers.append(torch.optim.Adam(discriminator.parameters(), lr=DISCRIMINATOR_RATE, betas=ADAM_BETAS))
            batches = Unpaired(knowledge, self.batch, conditions, most=self.protected, full=self.full_batch)
            batch, per_epoch = batches.batch, batches.per_epoch

            def step(number: int) -> dict[str, Tensor]:
                set_rate(number)
                return duel(network, discriminator, optimizers, *batches(number), device)

        else:
            known = knowledge.pairs(self.pairs)
            batch, per_epoch = self.batch, max(1, len(known) // self.batch)

            def step(number: int) -> dict[str, Tensor]:
                set_rate(number)
                picked = epoch_batches(len(known), self.batch, conditions.seed, number, device)
                plain = device.batch(known.plain[picked])
                guess = network(device.batch(known.protected[picked]))[..., : plain.shape[-2], : plain.shape[-1]]
                # In the range [-1, 1] in which the map works.
                loss = 4 * (guess - plain).square().sum() / len(picked)
                update(optimizer, loss)
                return {"squared error": loss.detach() / guess[0].numel()}

        def set_rate(number: int) -> None:
            epoch = number // per_epoch
            drops = sum(epoch >= self.epochs * sevenths // 7 for sevenths in (4, 6))
            optimizer.param_groups[0]["lr"] = self.rate / 10**drops

        learn(
            self,
            networks,
            optimizers,
            step,
            knowledge=knowledge,
            steps=self.epochs * per_epoch,
            batch=batch,
            conditions=conditions,
            stop_after=stop_after,
        )
        return Generated(network, conditions, None if paired else knowledge)
