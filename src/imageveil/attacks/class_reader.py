"""A classifier that reads an image's class off what a generator makes of it, and learns along with the generator.

After SIA-GAN (Madono et al., IEEE Access 2021), whose classifier is a PyramidNet. Chosen here: the small network of the
`quick` preset, which also learns from plain images where their labels are known, so that a class must be shown by what
shows it in real images. It sees all images shifted and mirrored, lest a generator learns by heart what makes it say a
label.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Conditions
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.learning import seeded
from imageveil.images.augment import crop_and_flip
from imageveil.networks.vgg import QuickNet
from imageveil.training.loop import step_generator

WHITENING_SAMPLE = 2000

SHIFT = 2
"""Pixels by which images are shifted at most before the classifier sees them."""


class ClassReader:
    """The classifier with the labels that an attacker has.

    Args:
        knowledge: whose protected images have labels; those of the plain images are used if they are known.
        conditions: seed and device.
        width: channels of its first block; the others have twice and four times as many.

    Attributes:
        network: the classifier, float (N, 3, H, W) in [0, 1] to logits.
    """

    def __init__(self, knowledge: Knowledge, conditions: Conditions, width: int) -> None:
        assert knowledge.labels is not None
        self.conditions, self.labels, self.plain_labels = conditions, knowledge.labels, knowledge.plain_labels
        known = [labels for labels in (self.labels, self.plain_labels) if labels is not None]
        classes = int(torch.stack([labels.max() for labels in known]).max()) + 1

        def make() -> nn.Module:
            network = QuickNet(classes, widths=(width, 2 * width, 4 * width))
            network.whiten(knowledge.plain[:WHITENING_SAMPLE].float() / 255)
            return network

        [self.network] = seeded(conditions, make)

    def learned(self) -> list[nn.Parameter]:
        """What is learned of it; its first layer is set from plain images for good."""
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def losses(self, guess: Tensor, plain: Tensor, chosen: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy on both kinds of images.

        Args:
            guess: what is generated, float (N, 3, H, W) in [0, 1].
            plain: plain images, float (M, 3, H, W) in [0, 1].
            chosen: which protected and which plain images these are.
            step: number of the step, which decides how images are shifted and mirrored.
        """
        device = self.conditions.device
        drawn = step_generator(self.conditions.seed, step * device.world + device.rank, stream=8)
        # One after the other: batch norm must not mix what is generated with what is real.
        losses = {"class": self.loss(crop_and_flip(guess, drawn, padding=SHIFT), self.labels[chosen[0]])}
        if self.plain_labels is not None:
            views = crop_and_flip(plain, drawn, padding=SHIFT)
            losses["plain class"] = self.loss(views, self.plain_labels[chosen[1]])
        return losses

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the classifier on float images (N, 3, H, W) in [0, 1]."""
        with self.conditions.device.autocast():
            logits = self.network(images)
        return F.cross_entropy(logits.float(), labels.to(logits.device))
