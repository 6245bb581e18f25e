"""Networks that undo a protection: a first layer made for the scheme, and a U-Net or residual blocks behind it.

They take protected float images (N, 3, H, W) in [0, 1] and return guesses of the plain ones on the same scale, not
clipped. The inverse transformation network of arXiv 2008.03143 is a U-Net without a first layer of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.networks.normalise import Normalise
from imageveil.networks.unet import UNet, UNetConfig

HALVES = 9
"""Channels of an image and the high and low halves of its bytes."""


class Front(nn.Module):
    """A first layer.

    Attributes:
        channels: channels of the features it returns.
        guess: whether the first three of them are a first guess of the plain image, centred on 0.
    """

    channels: int
    guess = False


class FieldFront(Front):
    """The image joined to a learned pattern, which tells every layer where in the image it works.

    For transformation networks that join the image to a pattern of their own.

    Args:
        size: height and width of the images.
        patterns: channels of the pattern; 0 for none, and then images of any size will do.
    """

    def __init__(self, size: tuple[int, int], *, patterns: int = 8) -> None:
        super().__init__()
        self.channels = 3 + patterns
        self.normalise = Normalise()
        self.field = nn.Parameter(torch.randn(patterns, *size)) if patterns else None

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 3 + patterns, H, W)."""
        hidden: Tensor = self.normalise(images)
        if self.field is None:
            return hidden
        return torch.cat([hidden, self.field.to(hidden.dtype).expand(len(hidden), -1, -1, -1)], dim=1)


class LabelFront(Front):
    """The image joined to a learned vector of its class, the same at every pixel, and to a learned pattern.

    Args:
        size: height and width of the images.
        classes: number of classes.
        channels: length of the vector.
    """

    def __init__(self, size: tuple[int, int], classes: int, *, channels: int = 8) -> None:
        super().__init__()
        self.field = FieldFront(size)
        self.channels = self.field.channels + channels
        self.vectors = nn.Embedding(classes, channels)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return (N, channels, H, W) for images and their classes (N,)."""
        hidden = self.field(images)
        planes = self.vectors(labels)[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
        return torch.cat([hidden, planes.to(hidden.dtype)], dim=1)


class BlockFront(Front):
    """The same layers for every block, then a pixel shuffle back to full size; for one key in all blocks.

    Args:
        block: pixels on a block's side.
        halves: also show the layers the halves of bytes, for schemes that move those.
        channels: channels of the result.
    """

    guess = True

    def __init__(self, block: int, *, halves: bool, channels: int = 16) -> None:
        super().__init__()
        self.halves, self.channels = halves, channels
        values = (HALVES if halves else 3) * block**2
        self.straight = nn.Conv2d(HALVES if halves else 3, channels * block**2, block, stride=block)
        self.bent = nn.Sequential(
            nn.Conv2d(HALVES if halves else 3, 2 * values, block, stride=block, bias=False),
            nn.BatchNorm2d(2 * values),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * values, channels * block**2, 1),
        )
        self.shuffle = nn.PixelShuffle(block)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, channels, H, W), for H and W multiples of the block."""
        hidden = with_halves(images) if self.halves else images - 0.5
        out: Tensor = self.shuffle(self.straight(hidden) + self.bent(hidden))
        return out


class PositionFront(Front):
    """One affine map of colours for every pixel, shared by no other; for a key of its own at every pixel.

    Args:
        size: height and width of the images.
    """

    channels = 3
    guess = True

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3)[:, :, None, None].repeat(1, 1, *size))
        self.bias = nn.Parameter(torch.zeros(3, *size))

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 3, H, W)."""
        # Sums of three products in float32: as an element-wise operation bfloat16 would cost digits and save nothing.
        hidden = images.float() - 0.5
        return (hidden[:, None] * self.weight).sum(dim=2) + self.bias


class DenseFront(Front):
    """The best affine map of the whole image, in closed form; for keys that move pixels or blocks across the image.

    Args:
        size: height and width of the images.
        halves: also map from the halves of bytes, for schemes that move those.
    """

    channels = 3
    guess = True
    weight: Tensor

    def __init__(self, size: tuple[int, int], *, halves: bool) -> None:
        super().__init__()
        self.halves, self.size = halves, size
        inputs = (6 if halves else 3) * size[0] * size[1]
        self.register_buffer("weight", torch.zeros(inputs + 1, 3 * size[0] * size[1]))

    def rows(self, images: Tensor) -> Tensor:
        """What is mapped: float32 (N, inputs + 1), the last column ones."""
        hidden = (with_halves(images)[:, 3:] if self.halves else images - 0.5).flatten(1)
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)

    @torch.no_grad()
    def solve(self, protected: Tensor, plain: Tensor, *, ridge: float = 1e-5, batch: int = 1000) -> None:
        """Fit the map by ridge regression.

        Args:
            protected: uint8 (N, 3, H, W).
            plain: uint8 (N, 3, H, W).
            ridge: added to the diagonal, as a share of N.
            batch: images at once.
        """
        size = self.weight.shape[0]
        # Sums in double precision: the products of smooth images are nearly singular.
        products = torch.zeros(size, size, device=self.weight.device, dtype=torch.float64)
        targets = torch.zeros_like(self.weight, dtype=torch.float64)
        for shown, wanted in zip(torch.split(protected, batch), torch.split(plain, batch), strict=True):
            rows = self.rows(shown.to(self.weight.device).float() / 255)
            products += rows.T @ rows
            targets += rows.T @ (wanted.to(self.weight.device).float() / 255 - 0.5).flatten(1)
        products.diagonal().add_(ridge * len(plain))
        factor = torch.linalg.cholesky(products)
        self.weight.copy_(torch.cholesky_solve(targets, factor))

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 3, H, W)."""
        # Not in bfloat16: thousands of terms are summed, and the answer is often exact.
        with torch.autocast(images.device.type, enabled=False):
            return (self.rows(images.float()) @ self.weight).view(-1, 3, *self.size)


def with_halves(images: Tensor) -> Tensor:
    """Join to float images (N, 3, H, W) in [0, 1] the high and low halves of their bytes: (N, 9, H, W), about 0."""
    values = (images.float() * 255).round()
    high = (values / 16).floor()
    low = values - 16 * high
    return torch.cat([images.float(), high / 15, low / 15], dim=1) - 0.5


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, around an identity (He et al. 2016, "Identity mappings")."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=False),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            ]
        self.residual = nn.Sequential(*layers)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        out: Tensor = hidden + self.residual(hidden)
        return out


class ResidualBody(nn.Module):
    """Pre-activation residual blocks on cells of 2x2 pixels, and a sub-pixel convolution back to full size.

    Args:
        inputs: channels of the input.
        width: channels of every block.
        blocks: number of blocks.
    """

    def __init__(self, inputs: int, *, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        self.last = nn.Conv2d(width, 12, 3, padding=1)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * inputs, width, 3, padding=1, bias=False),
            *(PreActivationBlock(width) for _ in range(blocks)),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (N, 3, H, W) for features (N, inputs, H, W) of any size."""
        height, width = hidden.shape[2:]
        padded = F.pad(hidden, (0, width % 2, 0, height % 2), mode="replicate")
        out = F.pixel_shuffle(self.last(self.layers(padded)), 2)
        return out[:, :, :height, :width]


class Reconstructor(nn.Module):
    """A first layer, a body, and a direct 1x1 way from the first layer to the output.

    Args:
        front: the first layer.
        network: `unet`, or `residual` for eight blocks of 64 channels.
        widths: channels of the U-Net at full, half, quarter, ... resolution.
    """

    def __init__(self, front: Front, *, network: str = "unet", widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.front = front
        if network == "unet":
            body = UNet(UNetConfig(widths=widths, head="linear"))
            body.encoder.normalise = nn.Identity()  # type: ignore[assignment]
            body.encoder.stem[0] = nn.Conv2d(front.channels, widths[0], 3, padding=1, bias=False)
            self.body: nn.Module = body
            last = body.head
        else:
            residual = ResidualBody(front.channels)
            self.body, last = residual, residual.last
        self.direct = nn.Conv2d(front.channels, 3, 1)
        # It starts as the direct way alone: the first layer's guess, or grey.
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.zero_()
            self.direct.weight.zero_()
            assert self.direct.bias is not None
            self.direct.bias.fill_(0.5)
            if front.guess:
                self.direct.weight[:, :3, 0, 0] = torch.eye(3)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the guess, (N, 3, H, W); `labels` (N,) for a first layer that takes them."""
        hidden = self.front(images) if labels is None else self.front(images, labels)
        out: Tensor = self.body(hidden).float() + self.direct(hidden).float()
        return out
