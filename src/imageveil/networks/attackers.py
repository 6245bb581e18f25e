"""Networks of the attacks that never see a pair: generators, the discriminator they play against, and the start.

All take float images (N, 3, H, W) in [0, 1]; inside they work in [-1, 1], as published.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.networks.adaptation import SpectralNormFilters

DEVIATION = 0.02
"""Standard deviation of the weights that GAN training starts from (Radford et al. 2016)."""


def start_weights(module: nn.Module) -> None:
    """Draw the weights that training starts from: convolutions N(0, 0.02), batch norm N(1, 0.02) with bias 0.

    For `Module.apply`; random numbers come from torch's generator.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | SpectralNormFilters):
        nn.init.normal_(module.weight, 0, DEVIATION)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, DEVIATION)
        nn.init.zeros_(module.bias)


def pad_to_cells(images: Tensor, cell: int) -> Tensor:
    """Repeat the last row and column of float images (N, C, H, W) until they consist of whole cells."""
    down, right = -images.shape[-2] % cell, -images.shape[-1] % cell
    return F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images


class SpectralConv(nn.Module):
    """A convolution whose filters are divided by their largest singular value (Miyato et al. 2018).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: side of the filters.
        stride: step between places.
        padding: zeros around the image.
        bias: whether a bias is learned.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.stride, self.padding = (outputs, inputs, kernel, kernel), stride, padding
        self.filters = SpectralNormFilters(1, outputs, inputs * kernel**2)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, outputs, H', W')."""
        weight = self.filters().view(self.shape)
        return F.conv2d(images, weight, self.bias, stride=self.stride, padding=self.padding)


class Generator(nn.Module):
    """A generator made of layers between [-1, 1] and tanh.

    Args:
        layers: the layers, 3 channels to 3 channels of the same size.
        cell: pixels on the side of the cells that the layers work on; images are padded to whole cells.
    """

    def __init__(self, *layers: nn.Module, cell: int = 1) -> None:
        super().__init__()
        self.layers, self.cell = nn.Sequential(*layers), cell

    def forward(self, images: Tensor) -> Tensor:
        """Return guesses of the plain images, float (N, 3, H, W) in [0, 1]."""
        height, width = images.shape[-2:]
        out = self.layers(pad_to_cells(images, self.cell) * 2 - 1)
        # (tanh(x) + 1) / 2, in 32 bits: what is rounded to bytes must not be rounded to 8 bits of mantissa before.
        return torch.sigmoid(2 * out.float())[..., :height, :width]


def pixel_generator() -> Generator:
    """The published generator against pixel-wise schemes: one map for the colours of every pixel.

    It cannot represent a key that differs from pixel to pixel. Sirichotedumrong and Kiya, arXiv 2006.01342, after
    Madono et al. 2019.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return Generator(*layers, nn.Conv2d(256, 3, 1))


def block_generator(block: int = 4) -> Generator:
    """The published generator against block-wise schemes: one map for the bytes of every block.

    For blocks of 4 pixels: 48, 48, 512 channels, pixel shuffle to 32 at full size, 3. Sirichotedumrong and Kiya, arXiv
    2006.01342, after Madono et al. 2019; other block sizes keep the ratios.

    Args:
        block: pixels on a block's side.
    """
    values, features = 3 * block**2, 32
    layers: list[nn.Module] = [nn.Conv2d(3, values, block, stride=block), nn.BatchNorm2d(values)]
    for inputs, outputs in ((values, values), (values, features * block**2)):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
    last = [nn.ReLU(inplace=True), nn.PixelShuffle(block), nn.Conv2d(features, 3, 1)]
    return Generator(*layers, *last, cell=block)


class AttackDiscriminator(nn.Module):
    """The published discriminator, which tells plain images from generated ones by the most plain-looking part.

    Images have at least `SMALLEST` pixels on a side; 32x32 ones pass through maps of 16, 8 and 5 places.
    Sirichotedumrong and Kiya, arXiv 2006.01342, after Madono et al. 2019. The sigmoid at its end belongs to the loss.

    Args:
        width: channels of the first layer.
        everywhere: give a score for every place instead of that of one. As published, no score depends on the lower and
            right borders of a 32x32 image, where a generator may then do as it likes.
    """

    SMALLEST = 16

    def __init__(self, width: int = 64, *, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            SpectralConv(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 1, 4, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return one score an image, float32 (N,), or one for each of P places, (N, P)."""
        scores: Tensor = self.layers(images * 2 - 1).float()
        if self.everywhere:
            return scores.flatten(1)
        # The pooling leaves one place at 32x32, the upper left 3x3 of 5x5, and many on larger images: the largest.
        return F.max_pool2d(scores, min(3, *scores.shape[-2:])).amax(dim=(1, 2, 3))


class PositionMap(nn.Module):
    """A map of colours for every pixel position, none of whose weights are shared between positions.

    Sirichotedumrong et al., GCCE 2019: an affine map of three colours to three.

    Args:
        height: rows of the images; the network serves this size only.
        width: columns of the images.
        hidden: hidden units of a position with ReLU; 0 for an affine map.
    """

    def __init__(self, height: int, width: int, hidden: int = 0) -> None:
        super().__init__()
        sizes = [3, hidden, 3] if hidden else [3, 3]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            # The default of a linear layer with so many inputs.
            bound = inputs**-0.5
            self.weights.append(torch.empty(height * width, outputs, inputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(height * width, outputs).uniform_(-bound, bound))

    def forward(self, images: Tensor) -> Tensor:
        """Return guesses of the plain images, float32 (N, 3, H, W); no bound keeps them in [0, 1]."""
        # Bytes carry 8 bits, the mantissa of bfloat16 fewer.
        with torch.autocast(images.device.type, enabled=False):
            hidden = images.float().permute(0, 2, 3, 1).flatten(1, 2) * 2 - 1
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                if layer:
                    hidden = torch.relu(hidden)
                hidden = torch.einsum("npi,poi->npo", hidden, weight) + bias
            out: Tensor = hidden.unflatten(1, images.shape[-2:]).permute(0, 3, 1, 2)
            return (out + 1) / 2
