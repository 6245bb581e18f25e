"""SIA-GAN: a GAN attack with a layer for every block position and a generator that must keep the images' classes.

Madono et al., "SIA-GAN: Scrambling Inversion Attack Using Generative Adversarial Network", IEEE Access 2021. The
attacker has protected images with their labels and unpaired plain images. The generator plays against a discriminator
with self-attention (hinge loss), and a classifier that learns along with it must read the class off what it generates
(cross-entropy, weight 1, as in the authors' code; the paper's equation has the adversarial term alone, and so has this
where protected or plain images have no labels).

Chosen here: all block positions start from the same weights and learn as one at first, all rates fall along a cosine,
and a generator that sets out for negatives is turned round early, while its classifier has not got used to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.class_reader import ClassReader
from imageveil.attacks.gan import BLOCK
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.learning import learn, seeded, to_images
from imageveil.attacks.unpaired import SAMPLE, Generated, Unpaired, update
from imageveil.networks.sia_gan import BlockPositions, SIADiscriminator, sia_generator
from imageveil.presets.ranges import Count, Rate, Share
from imageveil.training.device import average_buffers
from imageveil.training.loop import require_size
from imageveil.training.optimizers import set_rates

ADAM_BETAS = (0.0, 0.9)

SIGN_STEPS = (150, 300, 600)
"""Steps before which the sign of what is generated is looked at."""

CERTAIN = 3
"""Standard errors from which on a skewness counts as one."""


@dataclass(frozen=True, kw_only=True)
class SIAGAN(Attack):
    """The scrambling inversion attack.

    Attributes:
        width: channels of the generator's decoder and of the classifier's first block.
        discriminator: channels of the discriminator's last convolution.
        epochs: times that every protected image is seen.
        batch: protected and plain images a step.
        full_batch: see `gan`.
        generator_rate: learning rate of the generator and the classifier, falling to zero along a cosine; 1e-4 as
            published. With that and few steps the discriminator wins, so `quick` has a larger one.
        discriminator_rate: learning rate of the discriminator, falling likewise.
        alike: share of the run, from its start, in which all block positions learn the same; 0 is as published.
        protected: how many protected images to use at most; None takes all.
    """

    name: ClassVar[str] = "sia-gan"
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"width": 64, "discriminator": 1024, "full_batch": True},
        "quick": {"generator_rate": 1e-3, "epochs": 8},
        "smoke": {"width": 8, "discriminator": 32, "epochs": 1, "protected": 256},
    }

    width: Count = 16
    discriminator: Count = 128
    epochs: Count = 100
    batch: Count = 64
    full_batch: bool = False
    generator_rate: Rate = 1e-4
    discriminator_rate: Rate = 4e-4
    alike: Share = 0.5
    protected: Count | None = None

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Reconstruction:
        """Train generator, classifier and discriminator; see `Attack.fit`.

        Args:
            knowledge: of which protected and unpaired plain images are used, with their labels.
            conditions: seed, device and run directory.
            stop_after: leave after this many steps, as if interrupted.
        """
        self.require(knowledge)
        require_size(knowledge.plain, SIADiscriminator.SMALLEST, "the discriminator")
        conditions = conditions or Conditions()
        device = conditions.device
        height, width = knowledge.plain.shape[-2:]
        rows, columns = knowledge.protected.shape[-2:]
        generator, discriminator = seeded(
            conditions,
            lambda: sia_generator(rows, columns, knowledge.scheme.block or BLOCK, channels=self.width),
            lambda: SIADiscriminator(height, width, channels=self.discriminator),
        )
        [positions] = (layer for layer in generator.modules() if isinstance(layer, BlockPositions))
        networks: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        learned = [*generator.parameters()]
        reader = ClassReader.of(knowledge, conditions, self.width)
        if reader is not None:
            networks["classifier"] = reader.network
            learned += reader.learned()
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(learned, lr=self.generator_rate, betas=ADAM_BETAS),
            torch.optim.Adam(discriminator.parameters(), lr=self.discriminator_rate, betas=ADAM_BETAS),
        ]
        batches = Unpaired(knowledge, self.batch, conditions, most=self.protected, full=self.full_batch)
        batches.require_two(self.name)
        steps = self.epochs * batches.per_epoch

        def step(number: int) -> dict[str, Tensor]:
            if number in SIGN_STEPS:
                turn_if_negative(generator, knowledge, conditions)
            set_rates(optimizers, "cosine", number / steps)
            protected, plain = batches(number)
            with device.autocast():
                guess = generator(protected)[..., :height, :width]
                scores = discriminator(torch.cat([plain, guess.detach()]))
            told = F.relu(1 - scores[: len(plain)]).mean() + F.relu(1 + scores[len(plain) :]).mean()
            update(optimizers[1], told)
            discriminator.requires_grad_(False)
            with device.autocast():
                fooled = -discriminator(guess).mean()
            losses = {"discriminator": told, "generator": fooled}
            if reader is not None:
                losses |= reader.losses(guess, plain, batches.indices(number), number)
            optimizers[0].zero_grad()
            torch.stack([loss for name, loss in losses.items() if name != "discriminator"]).sum().backward()
            if number < self.alike * steps:
                positions.average_gradients()
            optimizers[0].step()
            discriminator.requires_grad_(True)
            return losses

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
        return Generated(generator, conditions, knowledge, labels=reader is not None)


@torch.no_grad()
def turn_if_negative(generator: nn.Module, knowledge: Knowledge, conditions: Conditions) -> None:
    """Negate the last layer of a generator whose images are skewed the other way from plain ones.

    There is no bias after that layer, so that what is generated becomes its negative. Several processes decide alike,
    by the mean of their batch statistics.
    """
    average_buffers(conditions.device, generator)
    generator.eval()
    guesses = to_images(generator, knowledge.protected[:SAMPLE], conditions)
    generator.train()
    if skewed_otherwise(guesses, knowledge.plain[:SAMPLE]):
        *_, last = generator.parameters()
        last.neg_()


def skewed_otherwise(guesses: Tensor, plain: Tensor) -> bool:
    """Whether the brightness of images has its longer tail where that of plain ones has the shorter.

    Of some kinds of photographs a few are much brighter than the rest, of others darker; of negatives it is the other
    way round, however blurred they are. Unlike mean images (`unpaired.is_negative`) it does not need a generator that
    treats all positions alike.

    Args:
        guesses: uint8 (N, 3, H, W).
        plain: uint8 (M, 3, H, W), any images of the kind.

    Returns:
        False where either skewness may be chance.
    """
    ours, theirs = (certain_skewness(images.float().mean(dim=(1, 2, 3))) for images in (guesses, plain))
    return ours * theirs < 0


def certain_skewness(values: Tensor) -> float:
    """The third standardised moment of values (N,); 0 where it lies within `CERTAIN` standard errors of 0."""
    skewness = ((values - values.mean()) / values.std().clamp(min=1e-6)).pow(3).mean().item()
    return skewness if abs(skewness) > CERTAIN * (6 / len(values)) ** 0.5 else 0.0
