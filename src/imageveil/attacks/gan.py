"""GAN attack, "GA": a generator turns protected images into what a discriminator takes for plain ones; no pair is seen.

Madono et al. 2019; Sirichotedumrong and Kiya, arXiv 2006.01342, section IV. Each family of schemes has its generator.
The one for pixel-wise schemes uses the same map for every pixel, so that what it gets under a key that differs from
pixel to pixel measures the generator and not the scheme.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.class_reader import ClassReader
from imageveil.attacks.knowledge import Knowledge, PublicScheme
from imageveil.attacks.learning import learn, seeded
from imageveil.attacks.unpaired import ADAM_BETAS, Generated, Unpaired, duel, teach
from imageveil.errors import UsageError
from imageveil.networks.attackers import AttackDiscriminator, block_generator, pixel_generator, start_weights
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.ranges import Count, Rate
from imageveil.training.loop import require_size
from imageveil.training.optimizers import set_rates

GENERATORS = ("auto", "pixel", "block", "unet")
PLACES = ("auto", "one", "all")
CHOICES = ("auto", "no", "yes")

ALONE = 0.1
"""Share of the run, from its start, in which labels teach the generator alone, where they teach it at all."""

BLOCK = 4
"""Pixels on the side of the block generator's blocks against a scheme that has no blocks."""


@dataclass(frozen=True, kw_only=True)
class GANAttack(Attack):
    """The GAN attack.

    Attributes:
        generator: `pixel`, `block`, `unet`, or `auto`: by what is published about the scheme.
        places: which scores of the discriminator count: `one`, of the most plain-looking part, as published; `all`; or
            `auto`, which is `one` for the generator for blocks alone.
        labels: whether a classifier must read the classes off what is generated (see `ClassReader`): `yes`; `no`, as
            published; or `auto`, which is `yes` for the U-Net alone, and there only if protected and plain images have
            labels of the same classes.
        falling: whether the learning rates fall to zero along a cosine: `yes`; `no`, as published; or `auto`, which is
            `yes` for the generator for pixels alone.
        colours: whether what comes out gets the distribution of colours of plain images: `yes`; `no`, as published; or
            `auto`, which is `yes` for the generator for pixels alone, whose one map can be off in little else.
        width: channels of the U-Net at full resolution; the others are as published.
        epochs: times that every protected image is seen; oftener where they are few (see `Unpaired`).
        batch: protected and plain images a step.
        full_batch: take as many also of images larger than 32x32; otherwise as many pixels (see `batch_for`).
        rate: learning rate of both networks.
        unet_rate: the same where the generator is a U-Net; `rate` as published.
        protected: how many protected images to use at most; None takes all.
    """

    name: ClassVar[str] = "gan"
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"epochs": 100, "width": 64, "full_batch": True},
        # As many images as its controls have.
        "quick": {"epochs": 20, "unet_rate": 1e-3, "protected": 10_000},
        "smoke": {"epochs": 1, "width": 8, "protected": 256},
    }

    generator: str = "auto"
    places: str = "auto"
    labels: str = "auto"
    falling: str = "auto"
    colours: str = "auto"
    width: Count = 24
    epochs: Count = 20
    batch: Count = 64
    full_batch: bool = False
    rate: Rate = 2e-4
    unet_rate: Rate = 2e-4
    protected: Count | None = None

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise UsageError(f"there is no generator {self.generator!r}; use one of: {', '.join(GENERATORS)}")
        if self.places not in PLACES:
            raise UsageError(f"places={self.places}: use one of: {', '.join(PLACES)}")
        for name in ("labels", "falling", "colours"):
            if (value := getattr(self, name)) not in CHOICES:
                raise UsageError(f"{name}={value}: use one of: {', '.join(CHOICES)}")

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Reconstruction:
        """Train generator and discriminator against each other; see `Attack.fit`.

        Args:
            knowledge: of which protected and unpaired plain images are used.
            conditions: seed, device and run directory.
            stop_after: leave after this many steps, as if interrupted.
        """
        self.require(knowledge)
        require_size(knowledge.plain, AttackDiscriminator.SMALLEST, "the discriminator")
        conditions = conditions or Conditions()
        generator, discriminator = seeded(
            conditions,
            lambda: self.make_generator(knowledge.scheme),
            lambda: self.make_discriminator(knowledge.scheme),
            start=start_weights,
        )
        networks: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        learned = [*generator.parameters()]
        kind = self._generator(knowledge.scheme)
        falling = _chosen(self.falling, kind == "pixel")
        reader = self.make_reader(knowledge, conditions)
        if reader is not None:
            networks["classifier"] = reader.network
            learned += reader.learned()
        optimizers = [
            torch.optim.Adam(weights, lr=self.unet_rate if kind == "unet" else self.rate, betas=ADAM_BETAS)
            for weights in (learned, discriminator.parameters())
        ]
        batches = Unpaired(knowledge, self.batch, conditions, most=self.protected, full=self.full_batch)
        batches.require_two(self.name)
        steps = self.epochs * batches.per_epoch

        def step(number: int) -> dict[str, Tensor]:
            if falling:
                set_rates(optimizers, "cosine", number / steps)
            protected, plain = batches(number)
            if reader is None:
                return duel(generator, discriminator, optimizers, protected, plain, conditions.device)
            read = partial(reader.losses, plain=plain, chosen=batches.indices(number), step=number)
            if number < ALONE * steps:
                return teach(generator, optimizers[0], protected, plain, conditions.device, read)
            return duel(generator, discriminator, optimizers, protected, plain, conditions.device, read)

        learn(
            self,
            networks,
            optimizers,
            step,
            knowledge=knowledge,
            steps=steps,
            batch=batches.batch,
            conditions=conditions,
            stop_after=stop_after,
        )
        return Generated(
            generator,
            conditions,
            knowledge,
            labels=reader is not None if kind == "unet" or self.labels == "yes" else None,
            colours=_chosen(self.colours, kind == "pixel"),
        )

    def make_generator(self, scheme: PublicScheme) -> nn.Module:
        """The generator that is used against a scheme: colours to colours, block to block, or any to any."""
        kind = self._generator(scheme)
        if kind == "pixel":
            return pixel_generator()
        if kind == "block":
            return block_generator(BLOCK if scheme.block in (None, 1) else scheme.block)
        return UNet(UNetConfig(widths=(self.width, 2 * self.width, 4 * self.width, 8 * self.width)))

    def make_discriminator(self, scheme: PublicScheme) -> AttackDiscriminator:
        """The discriminator that plays against the generator used against a scheme."""
        everywhere = self._generator(scheme) != "block" if self.places == "auto" else self.places == "all"
        return AttackDiscriminator(everywhere=everywhere)

    def make_reader(self, knowledge: Knowledge, conditions: Conditions) -> ClassReader | None:
        """The classifier that the generator must satisfy; None where labels are unknown or left out.

        Raises:
            UsageError: `labels` asks for it, and there are none.
        """
        used = _chosen(self.labels, self._generator(knowledge.scheme) == "unet")
        reader = ClassReader.of(knowledge, conditions, self.width) if used else None
        if reader is None and self.labels == "yes":
            raise UsageError(
                "labels=yes needs protected and plain images with labels of the same classes; leave labels or --plain "
                "out, or give others"
            )
        return reader

    def _generator(self, scheme: PublicScheme) -> str:
        if self.generator != "auto":
            return self.generator
        return "unet" if scheme.block is None else "pixel" if scheme.block == 1 else "block"


def _chosen(choice: str, otherwise: bool) -> bool:
    """What one of `CHOICES` says, with what `auto` stands for."""
    return otherwise if choice == "auto" else choice == "yes"
