"""GAN attack, "GA": a generator turns protected images into what a discriminator takes for plain ones; no pair is seen.

Madono et al. 2019; Sirichotedumrong and Kiya, arXiv 2006.01342, section IV. Each family of schemes has its generator.
The one for pixel-wise schemes uses the same map for every pixel, so that what it gets under a key that differs from
pixel to pixel measures the generator and not the scheme.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.class_reader import ClassReader
from imageveil.attacks.knowledge import Knowledge, PublicScheme
from imageveil.attacks.learning import batch_for, learn, seeded, to_images
from imageveil.errors import UsageError
from imageveil.networks.attackers import AttackDiscriminator, block_generator, pixel_generator, start_weights
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.ranges import Count, Rate
from imageveil.training.device import Device
from imageveil.training.loop import epoch_batches, require_size

GENERATORS = ("auto", "pixel", "block", "unet")
PLACES = ("auto", "one", "all")
LABELS = ("auto", "no", "yes")
ADAM_BETAS = (0.5, 0.999)
SIGN_IMAGES = 2000
"""Images of either kind, protected and plain, that tell whether guesses are negatives."""

AGREEMENT = 0.5
"""Correlation of two mean images from which on they are taken for each other, or for each other's negative."""

BRIGHTNESS = 0.5
"""How far the mean brightness of the negatives may be off, in standard deviations of plain values."""

EPOCH = 10_000
"""Images in an epoch at least, as in the controls: with few images an attack must not do fewer steps than these did."""

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
            `auto`, which is `all` for the U-Net alone.
        labels: whether a classifier must read the classes off what is generated (see `ClassReader`), where they are
            known: `yes`; `no`, as published; or `auto`, which is `yes` for the U-Net alone.
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
        "quick": {"epochs": 20, "unet_rate": 1e-3},
        "smoke": {"epochs": 1, "width": 8, "protected": 256},
    }

    generator: str = "auto"
    places: str = "auto"
    labels: str = "auto"
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
        if self.labels not in LABELS:
            raise UsageError(f"labels={self.labels}: use one of: {', '.join(LABELS)}")

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
        networks, learned = {"generator": generator, "discriminator": discriminator}, [*generator.parameters()]
        unet = self._generator(knowledge.scheme) == "unet"
        reader = self.make_reader(knowledge, conditions)
        if reader is not None:
            networks["classifier"] = reader.network
            learned += reader.learned()
        optimizers = [
            torch.optim.Adam(weights, lr=self.unet_rate if unet else self.rate, betas=ADAM_BETAS)
            for weights in (learned, discriminator.parameters())
        ]
        batches = Unpaired(knowledge, self.batch, conditions, most=self.protected, full=self.full_batch)
        steps = self.epochs * batches.per_epoch

        def step(number: int) -> dict[str, Tensor]:
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
        return Generated(generator, conditions, knowledge, labels=reader is not None if unet else None)

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
        unet = self._generator(scheme) == "unet"
        return AttackDiscriminator(everywhere=unet if self.places == "auto" else self.places == "all")

    def make_reader(self, knowledge: Knowledge, conditions: Conditions) -> ClassReader | None:
        """The classifier that the generator must satisfy; None where labels are unknown or left out."""
        used = self._generator(knowledge.scheme) == "unet" if self.labels == "auto" else self.labels == "yes"
        return ClassReader(knowledge, conditions, self.width) if used and knowledge.labels is not None else None

    def _generator(self, scheme: PublicScheme) -> str:
        if self.generator != "auto":
            return self.generator
        return "unet" if scheme.block is None else "pixel" if scheme.block == 1 else "block"


class Generated(Reconstruction):
    """A generator that has been learned: float images in [0, 1] to float images in [0, 1].

    The negative of a picture has nearly the edges and textures of one, so that a generator may learn either. Which it
    was is told afterwards by the mean images (`is_negative`); this is not part of the published attacks.

    Args:
        generator: the network.
        conditions: where it runs.
        knowledge: what it was learned from without pairs; None where pairs have settled the sign.
        labels: whether labels taught it; None where it would not have used any.
    """

    def __init__(
        self,
        generator: nn.Module,
        conditions: Conditions,
        knowledge: Knowledge | None = None,
        *,
        labels: bool | None = None,
    ) -> None:
        self.generator, self.conditions, self.labels = generator, conditions, labels
        self.negative: bool | None = None
        if knowledge is not None:
            height, width = knowledge.plain.shape[-2:]
            guesses = to_images(generator, knowledge.protected[:SIGN_IMAGES], conditions)[..., :height, :width]
            self.negative = is_negative(guesses, knowledge.plain[:SIGN_IMAGES])

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Send the images through the generator; see `Reconstruction.reconstruct`."""
        shown = to_images(self.generator, protected, self.conditions)
        return 255 - shown if self.negative else shown

    def figures(self) -> dict[str, float]:
        """Whether guesses were turned into their negatives, and whether labels taught the generator."""
        known = {"negated": self.negative, "labels": self.labels}
        return {name: float(value) for name, value in known.items() if value is not None}


def is_negative(guesses: Tensor, plain: Tensor) -> bool:
    """Whether images look like negatives of plain ones of the same kind.

    The mean of many photographs is a picture itself, bright where skies are. A generator that works on blocks or pixels
    and a discriminator without positions know nothing of it, so it can tell what they could not. Where the mean images
    hardly agree either way, or negatives would be too bright or too dark, nothing is said.

    Args:
        guesses: uint8 (N, 3, H, W).
        plain: uint8 (M, 3, H, W), any images of the kind.
    """
    ours, theirs = (images.float().mean(dim=(0, 1)) for images in (guesses, plain))
    agreement = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
    off = (255 - ours.mean() - theirs.mean()).abs()
    return bool(agreement < -AGREEMENT and off < BRIGHTNESS * plain.float().std())


class Unpaired:
    """Batches of protected images and, independently drawn, of plain ones.

    Args:
        knowledge: the attacker's images.
        batch: images of 32x32 pixels of either kind a step.
        conditions: whose seed decides the batches.
        most: how many protected images to use at most; None takes all.
        full: take `batch` images also of larger ones; otherwise as many fewer as they have more pixels.

    Attributes:
        batch: images a step.
        per_epoch: steps that count as an epoch: those of all images, or of `EPOCH` where these are fewer, `batch` at a
            time. Large images get as many steps as small ones.
    """

    def __init__(
        self, knowledge: Knowledge, batch: int, conditions: Conditions, *, most: int | None = None, full: bool = False
    ) -> None:
        self.knowledge, self.conditions = knowledge, conditions
        self.batch = batch if full else batch_for(batch, knowledge.protected)
        self.count = len(knowledge.protected[:most])
        self.per_epoch = max(1, max(self.count, min(EPOCH, most or EPOCH)) // batch)

    def indices(self, step: int) -> tuple[Tensor, Tensor]:
        """Which protected and which plain images a step uses."""
        seed, device = self.conditions.seed, self.conditions.device
        protected = epoch_batches(self.count, self.batch, seed, step, device)
        plain = epoch_batches(len(self.knowledge.plain), self.batch, seed + 1, step, device)
        return protected, plain

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Protected images (N, 3, H', W') and plain images (M, 3, H, W) of a step, float in [0, 1]."""
        protected, plain = self.indices(step)
        device = self.conditions.device
        return device.batch(self.knowledge.protected[protected]), device.batch(self.knowledge.plain[plain])


def duel(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    protected: Tensor,
    plain: Tensor,
    device: Device,
    also: Callable[[Tensor], dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """One step of the discriminator and one of the generator, with binary cross-entropy.

    Args:
        generator: protected images to guesses of the plain ones.
        discriminator: images to one score each, or to one for each of their places; larger for plain ones.
        optimizers: of the generator and of the discriminator.
        protected: float (N, 3, H', W') in [0, 1]; what a block scheme padded is cut off the guesses.
        plain: float (M, 3, H, W) in [0, 1].
        device: where and how it is computed.
        also: further losses of what is generated, float (N, 3, H, W) in [0, 1].

    Returns:
        All losses.
    """
    height, width = plain.shape[-2:]
    with device.autocast():
        guess = generator(protected)[..., :height, :width]
        # The discriminator has no batch statistics, so both kinds may pass at once.
        scores = discriminator(torch.cat([plain, guess.detach()]))
    truth = torch.zeros_like(scores)
    truth[: len(plain)] = 1
    # Published: the mean over plain images plus the mean over generated ones.
    places = scores[0].numel()
    weight = torch.where(truth > 0, 1 / len(plain), 1 / len(guess)) / places
    told = F.binary_cross_entropy_with_logits(scores, truth, weight, reduction="sum")
    update(optimizers[1], told)
    discriminator.requires_grad_(False)
    with device.autocast():
        scores = discriminator(guess)
    fooled = F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
    losses = {"generator": fooled} | ({} if also is None else also(guess))
    update(optimizers[0], torch.stack([*losses.values()]).sum())
    discriminator.requires_grad_(True)
    return {"discriminator": told} | losses


def teach(
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    protected: Tensor,
    plain: Tensor,
    device: Device,
    losses_of: Callable[[Tensor], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """One step of the generator without the discriminator; arguments as of `duel`."""
    height, width = plain.shape[-2:]
    with device.autocast():
        guess = generator(protected)[..., :height, :width]
    losses = losses_of(guess)
    update(optimizer, torch.stack([*losses.values()]).sum())
    return losses


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
