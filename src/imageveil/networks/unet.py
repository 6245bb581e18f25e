"""U-Net (Ronneberger et al. 2015), the generators G_AB and G_BA of the paper.

Batch norm only: no statistic of the whole image enters, so tiles and whole images agree.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.networks.normalise import Normalise
from imageveil.networks.vgg import ConvBlock

FIELD_PERIOD = 64

CONTRAST_BLOCK = 4
"""Side in pixels of the blocks that `block_contrast` brings to one brightness and contrast."""

Head = Literal["sigmoid", "contrast", "linear"]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The shape of a U-Net.

    Attributes:
        widths: channels at full, half, quarter, ... resolution.
        depth: convolutions a level of the encoder.
        outputs: channels of the output.
        head: `sigmoid` into [0, 1], `contrast` (see `block_contrast`), or `linear`.
        top_skip: join the features at full resolution to the output; without it the last layer is a sub-pixel
            convolution and no pixel-exact outline has a direct way through.
        field: channels of a fixed pseudo-random pattern that the input is joined to, so that a flat area of an
            image need not become a flat texture; 0 for none.
    """

    widths: tuple[int, ...] = (24, 64, 128, 192)
    depth: int = 2
    outputs: int = 3
    head: Head = "sigmoid"
    top_skip: bool = True
    field: int = 0


class Encoder(nn.Module):
    """The contracting half; also a good plain classifier to start from."""

    field: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.register_buffer("field", torch.rand(config.field, FIELD_PERIOD, FIELD_PERIOD) * 2 - 1)
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3 + config.field, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.levels = nn.ModuleList(
            ConvBlock(inputs, outputs, config.depth)
            for inputs, outputs in zip(config.widths, config.widths[1:], strict=False)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps at full, half, quarter, ... resolution."""
        hidden = self.normalise(images)
        if len(self.field):
            # Indexed from the image's corner: tiles whose offsets are multiples of the period see the same field.
            rows = torch.arange(images.shape[2], device=images.device) % FIELD_PERIOD
            columns = torch.arange(images.shape[3], device=images.device) % FIELD_PERIOD
            field = self.field[:, rows][:, :, columns].to(hidden.dtype)
            hidden = torch.cat([hidden, field.expand(len(hidden), -1, -1, -1)], dim=1)
        maps = [self.stem(hidden)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps


class Up(nn.Module):
    """Double the resolution, join the encoder's map of that resolution, convolve."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
        self.conv = nn.Conv2d(2 * outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Return (N, outputs, 2H, 2W)."""
        return torch.relu(self.norm(self.conv(torch.cat([self.up(hidden), skip], dim=1))))


class UNet(nn.Module):
    """U-Net from float images (N, 3, H, W) in [0, 1] to `outputs` channels of the same size.

    Images of any size: the right and lower border are replicated up to whole cells and cropped again.

    Raises:
        UsageError: the head is unknown.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        if config.head not in get_args(Head):
            raise UsageError(f"unknown head {config.head!r} of a U-Net; use {', '.join(get_args(Head))}")
        self.config = config
        self.cell = 2 ** (len(config.widths) - 1)
        if config.head == "contrast":
            # Both are powers of two, so whole cells are whole blocks.
            self.cell = max(self.cell, CONTRAST_BLOCK)
        self.encoder = Encoder(config)
        ups = list(zip(config.widths[1:], config.widths, strict=False))
        if not config.top_skip:
            ups = ups[1:]
        self.decoder = nn.ModuleList(Up(inputs, outputs) for inputs, outputs in reversed(ups))
        if config.top_skip:
            self.head: nn.Module = nn.Conv2d(config.widths[0], config.outputs, 1)
        else:
            self.head = nn.Sequential(nn.Conv2d(config.widths[1], 4 * config.outputs, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, outputs, H, W)."""
        height, width = images.shape[2:]
        down, right = -height % self.cell, -width % self.cell
        if down or right:
            images = F.pad(images, (0, right, 0, down), mode="replicate")
        maps = self.encoder(images)
        hidden = maps.pop()
        for up in self.decoder:
            hidden = up(hidden, maps.pop())
        out: Tensor = self.head(hidden)
        if self.config.head == "sigmoid":
            out = out.float().sigmoid()  # what is rounded to bytes must not be rounded to 8 bits of mantissa before
        elif self.config.head == "contrast":
            out = block_contrast(out)
        return out[:, :, :height, :width]


def opponent_axes() -> Tensor:
    """An orthonormal basis of colour, (3, 3): luminance (Rec. 601) first, then two axes of equal luminance."""
    luminance = torch.tensor([0.299, 0.587, 0.114])
    red_blue = torch.tensor([0.114, 0.0, -0.299])
    third = torch.linalg.cross(luminance, red_blue)
    return torch.stack([axis / axis.norm() for axis in (luminance, red_blue, third)])


def block_contrast(values: Tensor, *, block: int = CONTRAST_BLOCK, deviation: float = 0.2) -> Tensor:
    """Give every block the mean 0.5 and, in luminance and two opponent colours, the same standard deviation.

    A block's brightness and contrast are the first things the eye follows; after this they carry nothing.

    Args:
        values: any real (N, 3, H, W) along the opponent axes, H and W multiples of `block`.
        block: side of a block in pixels.
        deviation: standard deviation inside a block before values are clipped to [0, 1].

    Returns:
        RGB images, float32 (N, 3, H, W) in [0, 1].
    """
    count, channels, height, width = values.shape
    blocks = values.float().reshape(count, channels, height // block, block, width // block, block)
    centred = blocks - blocks.mean(dim=(3, 5), keepdim=True)
    scaled = centred * torch.rsqrt(centred.square().mean(dim=(3, 5), keepdim=True) + 1e-5)
    scaled = scaled.reshape(count, channels, height, width)
    # A 1x1 convolution in float32: autocast would round the colours.
    with torch.autocast(values.device.type, enabled=False):
        rgb = F.conv2d(scaled, opponent_axes().T.reshape(3, 3, 1, 1).to(scaled.device))
    return (0.5 + deviation * rgb).clamp(0, 1)


class EncoderClassifier(nn.Module):
    """The encoder of a U-Net with a linear layer on top: what a transformation network starts warm from.

    Attributes:
        smallest: pixels that an image must have on a side.
    """

    def __init__(self, config: UNetConfig, classes: int) -> None:
        super().__init__()
        self.smallest = 2 ** (len(config.widths) - 1)
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.widths[-1], classes, bias=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps at half, quarter, ... resolution."""
        maps: list[Tensor] = self.encoder(images)
        return maps[1:]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.features(images)[-1].amax(dim=(2, 3)))
        return logits
