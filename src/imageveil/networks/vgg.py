"""VGG networks for small images: h_theta of the paper, and the narrow one that the `quick` preset judges with."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.networks.normalise import Normalise

VGG13_WIDTHS = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))


BATCH_NORM_MOMENTUM = 0.4
"""Share of the newest batch in the running statistics of `QuickNet`, whose weights move fast."""


class VGG13(nn.Module):
    """VGG13 with batch normalisation (Simonyan and Zisserman 2014, configuration B), one linear layer on top.

    Takes float images (N, 3, H, W) in [0, 1], at least 32 pixels on a side; larger maps are averaged
    before the last layer.

    Attributes:
        smallest: pixels that an image must have on a side.
    """

    smallest: ClassVar[int] = 32

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise()]
        previous = 3
        for block in VGG13_WIDTHS:
            for width in block:
                layers += [
                    nn.Conv2d(previous, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                previous = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(previous, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return logits


class ConvBlock(nn.Sequential):
    """Convolution, 2x2 max pooling, then `depth - 1` more convolutions; batch norm and an activation after each."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, activation: nn.Module | None = None) -> None:
        activation = nn.ReLU(inplace=True) if activation is None else activation
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            activation,
        ]
        for _ in range(depth - 1):
            layers += [
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                activation,
            ]
        super().__init__(*layers)


class QuickNet(nn.Module):
    """A small, early-pooling VGG-like network in the manner of Jordan's CIFAR-10 speed runs (2024).

    Its first layer is not learned: it holds the principal axes of small patches of the training images and their
    negatives (`whiten`), so that training starts from decorrelated inputs, whatever the images look like. Filters
    start by passing on what they are given, batch norm has shifts and no scales, and the last layer starts near zero.
    Takes float images (N, 3, H, W) in [0, 1], at least 16 pixels on a side. Behind an adaptation network, whose
    features change while it learns, that layer is learned too and keeps its width.

    Args:
        classes: number of labels.
        widths: channels of the three blocks.
        depth: convolutions a block.
        inputs: channels of the input; other than 3 for features of an adaptation network.
        kernel: side of the first layer's patches.

    Attributes:
        smallest: pixels that an image must have on a side.
    """

    smallest: ClassVar[int] = 16

    def __init__(
        self,
        classes: int = 10,
        *,
        widths: tuple[int, int, int] = (64, 256, 256),
        depth: int = 2,
        inputs: int = 3,
        kernel: int = 2,
    ) -> None:
        super().__init__()
        self.normalise = Normalise() if inputs == 3 else nn.Identity()
        blocks, previous = [], 2 * 3 * kernel**2
        self.whitening = nn.Conv2d(inputs, previous, kernel)
        self.whitening.weight.requires_grad_(inputs != 3)
        for width in widths:
            blocks.append(ConvBlock(previous, width, depth, activation=nn.GELU()))
            previous = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(previous, classes, bias=False)
        nn.init.normal_(self.head.weight, std=1 / previous)
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight.data[: module.in_channels])
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM
                module.weight.requires_grad_(False)

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer from the patches of some thousand float images (N, inputs, H, W) in [0, 1]."""
        kernel = self.whitening.kernel_size[0]
        patches = F.unfold(self.normalise(images), kernel)[:, :, ::7].permute(0, 2, 1).flatten(0, 1)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        axes = (vectors / torch.sqrt(values + eps)).T.flip(0)
        axes = axes.reshape(-1, *self.whitening.weight.shape[1:])
        self.whitening.weight.copy_(torch.cat([axes, -axes]))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature map after each of the three blocks."""
        hidden = torch.relu(self.whitening(self.normalise(images)))
        maps = []
        for block in self.blocks:
            hidden = block(hidden)
            maps.append(hidden)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.features(images)[-1].amax(dim=(2, 3)))
        return logits
