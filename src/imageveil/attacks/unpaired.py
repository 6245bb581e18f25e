"""What attacks without pairs share: batches of two independent kinds of images, steps of a generator, sign and colours.

The loss is the published one of the GAN attack (Madono et al. 2019): binary cross-entropy for both players.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Conditions, Reconstruction
from imageveil.attacks.colours import ColourTransfer
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.learning import batch_for, to_images
from imageveil.errors import UsageError
from imageveil.training.device import Device
from imageveil.training.loop import epoch_batches

ADAM_BETAS = (0.5, 0.999)
"""Published, of both players."""

SAMPLE = 2000
"""Images of either kind, protected and plain, that tell the sign and the colours of guesses."""

AGREEMENT = 0.5
"""Correlation of two mean images from which on they are taken for each other, or for each other's negative."""

BRIGHTNESS = 0.5
"""How far the mean brightness of the negatives may be off, in standard deviations of plain values."""

EPOCH = 10_000
"""Images in an epoch at least, as in the controls: with few images an attack must not do fewer steps than these did."""


class Generated(Reconstruction):
    """A generator that has been learned: float images in [0, 1] to float images in [0, 1].

    The negative of a picture has nearly the edges and textures of one, so that a generator may learn either. Which it
    was is told afterwards by the mean images (`is_negative`). A discriminator also sees little of a tint, or of a
    contrast that is a little off; how often plain images have which colour corrects both (`ColourTransfer`). Neither is
    part of the published attacks.

    Args:
        generator: the network.
        conditions: where it runs.
        knowledge: what it was learned from without pairs; None where pairs have settled the sign.
        labels: whether labels taught it; None where it would not have used any.
        colours: whether guesses get the distribution of colours of the plain images in `knowledge`; None says no for an
            attack that has no such choice.
    """

    def __init__(
        self,
        generator: nn.Module,
        conditions: Conditions,
        knowledge: Knowledge | None = None,
        *,
        labels: bool | None = None,
        colours: bool | None = None,
    ) -> None:
        self.generator, self.conditions, self.labels, self.colours = generator, conditions, labels, colours
        self.negative: bool | None = None
        self.transfer: ColourTransfer | None = None
        if knowledge is not None:
            height, width = knowledge.plain.shape[-2:]
            guesses = self.reconstruct(knowledge.protected[:SAMPLE])[..., :height, :width]
            self.negative = is_negative(guesses, knowledge.plain[:SAMPLE])
            if colours:
                guesses = 255 - guesses if self.negative else guesses
                self.transfer = ColourTransfer(guesses, knowledge.plain[:SAMPLE])

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Send the images through the generator, then correct sign and colours; see `Reconstruction.reconstruct`."""
        shown = to_images(self.generator, protected, self.conditions)
        if self.negative:
            shown = 255 - shown
        return shown if self.transfer is None else self.transfer(shown)

    def figures(self) -> dict[str, float]:
        """Whether guesses were turned into negatives and given plain colours; whether labels taught the generator."""
        known = {"negated": self.negative, "labels": self.labels, "colours_matched": self.colours}
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

    def require_two(self, attack: str) -> None:
        """Refuse steps with a single image of either kind: batch norm has nothing to compare it with.

        Raises:
            UsageError: a process gets a single one.
        """
        if min(self.batch, self.count, len(self.knowledge.plain)) < 2 * self.conditions.device.world:
            raise UsageError(
                f"{attack} needs at least two protected and two plain images a step for every process; give it more "
                "images or a larger batch"
            )

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
