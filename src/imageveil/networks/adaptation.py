"""Adaptation networks: what the cloud puts in front of a classifier that learns from images of a keyed scheme.

Each takes float images (N, 3, H, W) in [0, 1] and returns features (N, channels, H, W) for a classifier whose first
layer takes `channels`. Layers follow Tanaka (ICCE-TW 2018) and Madono et al. (arXiv 2001.07761).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.errors import UsageError

U_WEIGHT, SMOOTHNESS_WEIGHT = 0.001, 0.1


class Adaptation(nn.Module):
    """An adaptation network.

    Attributes:
        channels: channels of the features it returns.
        arguments: arguments of `build_adaptation` that make a network of this architecture; set by that function.
    """

    channels: int
    arguments: dict[str, Any]

    def penalty(self) -> Tensor | None:
        """An extra loss for the last batch that was seen in training; None where the network has none."""
        return None


class LayeredAdaptation(Adaptation):
    """An adaptation network that is a plain sequence of layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, channels, H, W)."""
        features: Tensor = self.layers(images)
        return features


class TanakaAdaptation(LayeredAdaptation):
    """Tanaka's network for learnable encryption: the same three layers for every block, then a pixel shuffle.

    Args:
        block: pixels on a block's side.
    """

    channels = 32

    def __init__(self, block: int = 4) -> None:
        values = 3 * block**2
        super().__init__(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, values, block, stride=block),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(values),
            nn.Conv2d(values, values, 1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(values),
            nn.Conv2d(values, self.channels * block**2, 1),
            nn.PixelShuffle(block),
        )


class LEAdaptNet(LayeredAdaptation):
    """The network that Madono et al. used for learnable encryption: one layer for every block, then a pixel shuffle.

    Args:
        block: pixels on a block's side.
    """

    channels = 16

    def __init__(self, block: int = 4) -> None:
        values = self.channels * block**2
        super().__init__(
            nn.Conv2d(3, values, block, stride=block, bias=False),
            nn.BatchNorm2d(values),
            nn.LeakyReLU(0.1, inplace=True),
            nn.PixelShuffle(block),
        )


class ELEAdaptNet(Adaptation):
    """The network of Madono et al. for extended learnable encryption: a layer of its own for every block position.

    The results of the blocks are mixed by a free matrix U, which can learn to put the blocks back in order.

    Args:
        block: pixels on a block's side.
        size: pixels on the side of the images; the network serves this size only.
    """

    channels = 16
    smoothness: Tensor | None = None

    def __init__(self, block: int = 4, size: int = 32) -> None:
        super().__init__()
        self.block, self.side = block, -(-size // block)
        blocks, values = self.side**2, self.channels * block**2
        self.filters = SpectralNormFilters(blocks, values, 3 * block**2)
        self.norm = nn.BatchNorm1d(blocks * values)
        self.mixing = nn.Parameter(torch.empty(blocks, blocks).uniform_(-(blocks**-0.5), blocks**-0.5))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, 16, H, W).

        Raises:
            UsageError: the images are of another size than the network.
        """
        pixels = self.side * self.block
        if images.shape[-2:] != (pixels, pixels):
            raise UsageError(f"this adaptation network is for {pixels}x{pixels} images, not {tuple(images.shape[-2:])}")
        columns = F.unfold(images, self.block, stride=self.block).transpose(1, 2)
        hidden = torch.einsum("nbi,boi->nbo", columns, self.filters())
        hidden = F.leaky_relu(self.norm(hidden.flatten(1)).view_as(hidden), 0.2)
        hidden = torch.einsum("nbo,bc->noc", hidden, self.mixing)
        features = F.pixel_shuffle(hidden.unflatten(2, (self.side, self.side)), self.block)
        if self.training:
            self.smoothness = smoothness(features.float())
        return features

    def penalty(self) -> Tensor:
        """The extra loss 0.001 L_U + 0.1 L_s; L_s of the last training batch counts once, then it is let go."""
        loss = U_WEIGHT * permutation_penalty(self.mixing)
        if self.smoothness is not None:
            loss = loss + SMOOTHNESS_WEIGHT * self.smoothness
            self.smoothness = None
        return loss


class SpectralNormFilters(nn.Module):
    """One matrix for every block, each divided by its largest singular value.

    The value is followed by one power iteration a training step (Miyato et al. 2018).

    Args:
        blocks: number of matrices.
        outputs: rows of each.
        inputs: columns of each.
    """

    left: Tensor

    def __init__(self, blocks: int, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(blocks, outputs, inputs) * (2 / outputs) ** 0.5)
        self.register_buffer("left", F.normalize(torch.randn(blocks, outputs), dim=1))

    def forward(self) -> Tensor:
        """Return the matrices, (blocks, outputs, inputs)."""
        # Sixteen bits are too few for a power iteration.
        with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
            right = F.normalize(torch.einsum("boi,bo->bi", self.weight, self.left), dim=1)
            left = F.normalize(torch.einsum("boi,bi->bo", self.weight, right), dim=1)
            if self.training:
                self.left.copy_(left)
        with torch.autocast(self.weight.device.type, enabled=False):
            largest = torch.einsum("bo,boi,bi->b", left, self.weight, right)
        return self.weight / largest[:, None, None]


def permutation_penalty(matrix: Tensor) -> Tensor:
    """L_U: sum over rows and columns of L1 minus L2 norm, over N^2 for an (N, N) matrix; 0 for a permutation."""
    total = sum((matrix.abs().sum(dim) - matrix.square().sum(dim).sqrt()).sum() for dim in (0, 1))
    return torch.as_tensor(total / matrix.numel())


def smoothness(features: Tensor) -> Tensor:
    """L_s: squared differences to the pixel below and to the right, as a mean over all values of (N, C, H, W)."""
    down, right = features.diff(dim=2).square().sum(), features.diff(dim=3).square().sum()
    return (down + right) / features.numel()


class PixelStem(LayeredAdaptation):
    """1x1 convolutions for pixel-based encryption with one key: no filter mixes pixels of different keys."""

    channels = 32

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, self.channels)):
            layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Adapted(nn.Module):
    """An adaptation network in front of a classifier.

    Attributes:
        adaptation: the adaptation network.
        classifier: a classifier whose first layer takes `adaptation.channels`.
    """

    def __init__(self, adaptation: Adaptation, classifier: nn.Module) -> None:
        super().__init__()
        self.adaptation, self.classifier = adaptation, classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's logits for float images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.classifier(self.adaptation(images))
        return logits


def build_adaptation(
    scheme: str, *, block: int = 4, size: int = 32, variant: str = "own", seed: int = 0
) -> Adaptation | None:
    """Make the adaptation network that was published with a scheme.

    Args:
        scheme: name of the scheme.
        block: pixels on the side of the scheme's blocks.
        size: pixels on the side of the images.
        variant: `own`, or for `tanaka` also `le-adaptnet`, the network of Madono et al.
        seed: decides the initial weights.

    Returns:
        The network; None for schemes whose images go into an ordinary classifier.

    Raises:
        UsageError: the scheme has no such variant.
    """
    networks: dict[tuple[str, str], Callable[[], Adaptation]] = {
        ("tanaka", "own"): lambda: TanakaAdaptation(block),
        ("tanaka", "le-adaptnet"): lambda: LEAdaptNet(block),
        ("extended", "own"): lambda: ELEAdaptNet(block, size),
        ("pixel-same", "own"): PixelStem,
    }
    if (scheme, variant) not in networks:
        if variant != "own":
            raise UsageError(f"{scheme} has no adaptation network {variant!r}; leave the variant out")
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks[scheme, variant]()
    network.arguments = {"scheme": scheme, "block": block, "size": size, "variant": variant}
    return network
