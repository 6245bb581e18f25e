"""Networks of SIA-GAN (Madono et al., IEEE Access 2021, tables 4 to 6).

Both take float images (N, 3, H, W) in [0, 1]; inside they work in [-1, 1], as published.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.networks.adaptation import SpectralNormFilters
from imageveil.networks.attackers import Generator, SpectralConv

SLOPE = 0.1
"""Slope of the leaky ReLU below zero."""


class BlockPositions(nn.Module):
    """A layer of its own for every block position, laid out at full size by a pixel shuffle.

    The first weights are the same for all.

    Args:
        height: rows of the images in blocks.
        width: columns of the images in blocks.
        block: pixels on a block's side.
        features: channels at full size.
    """

    def __init__(self, height: int, width: int, block: int, features: int = 16) -> None:
        super().__init__()
        self.size, self.block = (height, width), block
        values = features * block**2
        self.filters = SpectralNormFilters(height * width, values, 3 * block**2)
        self.norm = nn.BatchNorm1d(height * width * values)
        # Where blocks share a key, positions that start apart learn a picture here and its negative there.
        with torch.no_grad():
            for same in (self.filters.weight, self.filters.left):
                same.copy_(same[:1].clone().expand_as(same))

    def average_gradients(self) -> None:
        """Give every position the mean of all positions' gradients, so that those that are alike stay alike."""
        positions = len(self.filters.weight)
        for weight in (self.filters.weight, self.norm.weight, self.norm.bias):
            assert weight.grad is not None
            gradients = weight.grad.view(positions, -1)
            gradients.copy_(gradients.mean(dim=0, keepdim=True).expand_as(gradients))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, features, H, W)."""
        columns = F.unfold(images, self.block, stride=self.block)
        hidden = torch.einsum("nib,boi->nbo", columns, self.filters())
        hidden = F.leaky_relu(self.norm(hidden.flatten(1)).view_as(hidden), SLOPE)
        return F.pixel_shuffle(hidden.transpose(1, 2).unflatten(2, self.size), self.block)


class Residual(nn.Module):
    """Two 3x3 convolutions with spectral norm and batch norm, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*convolution(width, width), *convolution(width, width)[:-1])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.leaky_relu(hidden + self.layers(hidden), SLOPE)


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution with spectral norm, batch norm and leaky ReLU."""
    return [SpectralConv(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE, inplace=True)]


def sia_generator(height: int, width: int, block: int, *, channels: int = 64) -> Generator:
    """The generator: block positions, then a decoder with three residual blocks.

    Args:
        height: rows of the protected images; the network serves this size only.
        width: columns of the protected images.
        block: pixels on a block's side; 1 for pixel-wise schemes.
        channels: channels of the decoder; 64 as published.
    """
    rows, columns = -(-height // block), -(-width // block)
    return Generator(
        BlockPositions(rows, columns, block),
        *convolution(16, channels),
        *(Residual(channels) for _ in range(3)),
        *convolution(channels, channels),
        SpectralConv(channels, 3, 3, padding=1),
        cell=block,
    )


class SelfAttention(nn.Module):
    """Self-attention over the places of a map, as in SAGAN (Zhang et al. 2019): softmax of queries and keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, max(1, channels // 8), 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return features of the same shape, (N, C, H, W)."""
        query, key, value = (layer(hidden).flatten(2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(torch.einsum("ncq,nck->nqk", query, key), dim=-1)
        seen = torch.einsum("nck,nqk->ncq", value, weights)
        return hidden + self.share * seen.view_as(hidden)


class SIADiscriminator(nn.Module):
    """The discriminator: seven convolutions with spectral norm, self-attention after the sixth and the last.

    Args:
        height: rows of the plain images; the network serves this size only, at least `SMALLEST` pixels.
        width: columns of the plain images.
        channels: channels of the last convolution; 1,024 as published.
    """

    SMALLEST = 8

    def __init__(self, height: int, width: int, *, channels: int = 1024) -> None:
        super().__init__()
        sizes = (3, channels // 8, channels // 4, channels // 2)
        stages = [layer for pair in pairwise(sizes) for layer in stage(*pair)]
        # The published table has an activation after the last convolution; the authors' code, followed here, has none.
        last = SpectralConv(sizes[-1], channels, 3, padding=1, bias=True)
        self.layers = nn.Sequential(*stages, SelfAttention(sizes[-1]), last, SelfAttention(channels))
        self.score = SpectralNormFilters(1, 1, channels * (height // 8) * (width // 8))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        """Return one unbounded score an image, float32 (N,)."""
        hidden = self.layers(images * 2 - 1).flatten(1).float()
        with torch.autocast(images.device.type, enabled=False):
            scores: Tensor = hidden @ self.score()[0, 0]
        return scores + self.bias


def stage(inputs: int, outputs: int) -> Iterator[nn.Module]:
    """A 3x3 convolution and a strided one, with leaky ReLU after each."""
    for first, kernel, stride in ((inputs, 3, 1), (outputs, 4, 2)):
        yield SpectralConv(first, outputs, kernel, stride=stride, padding=1, bias=True)
        yield nn.LeakyReLU(SLOPE, inplace=True)
