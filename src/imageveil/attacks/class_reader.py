"""A classifier that reads an image's class off what a generator makes of it, and learns along with the generator.

After SIA-GAN (Madono et al., IEEE Access 2021), whose classifier is a PyramidNet. Chosen here: the small network of the
`quick` preset, which also learns from plain images, so that a class must be shown by what shows it in real images:
without plain labels it would agree with the generator on marks of their own. It sees all images shifted and mirrored,
lest a generator learns by heart what makes it say a label.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Conditions
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.learning import seeded
from imageveil.images.augment import crop_and_flip
from imageveil.networks.vgg import QuickNet
from imageveil.training.loop import require_size, step_generator

WHITENING_SAMPLE = 2000

SHIFT = 2
"""Pixels by which images are shifted at most before the classifier sees them."""


class ClassReader:
    """The classifier with the labels that an attacker has.

    Args:
        knowledge: whose protected and plain images have labels.
        conditions: seed and device.
        width: channels of its first block; the others have twice and four times as many.

    Attributes:
        network: the classifier, float (N, 3, H, W) in [0, 1] to logits.

    Raises:
        UsageError: the images are too small for it.
    """

    def __init__(self, knowledge: Knowledge, conditions: Conditions, width: int) -> None:
        assert knowledge.labels is not None and knowledge.plain_labels is not None
        require_size(knowledge.plain, QuickNet.smallest, "the classifier of generated images")
        self.conditions, self.labels, self.plain_labels = conditions, knowledge.labels, knowledge.plain_labels
        classes = int(max(self.labels.max(), self.plain_labels.max())) + 1

        def make() -> nn.Module:
            network = QuickNet(classes, widths=(width, 2 * width, 4 * width))
            network.whiten(knowledge.plain[:WHITENING_SAMPLE].float() / 255)
            return network

        [self.network] = seeded(conditions, make)

    @classmethod
    def of(cls, knowledge: Knowledge, conditions: Conditions, width: int) -> "ClassReader | None":
        """Make one as described above; None where protected or plain images have no labels of the same classes."""
        taught = knowledge.labels is not None and knowledge.plain_labels is not None
        return cls(knowledge, conditions, width) if taught else None

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
        generated = self.loss(crop_and_flip(guess, drawn, padding=SHIFT), self.labels[chosen[0]])
        real = self.loss(crop_and_flip(plain, drawn, padding=SHIFT), self.plain_labels[chosen[1]])
        return {"class": generated, "plain class": real}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the classifier on float images (N, 3, H, W) in [0, 1]."""
        with self.conditions.device.autocast():
            logits = self.network(images)
        return F.cross_entropy(logits.float(), labels.to(logits.device))
