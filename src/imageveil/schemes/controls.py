"""Controls: schemes with a known answer, which show that attacks and measurements work."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.images.decode import ImageError
from imageveil.networks.classifiers import CLASSIFIERS
from imageveil.schemes.base import Scheme
from imageveil.schemes.blocks import PlaceMap, block_places, place_map
from imageveil.schemes.keyed import PlaceScheme, SharedBlockScheme, master_key
from imageveil.schemes.keys import (
    KEY_BYTES,
    derive,
    key_choices,
    key_stream,
    log2_factorial,
    new_master_key,
    normals,
    permutation,
)
from imageveil.schemes.pixelwise import ORDERS

BLUR_SIGMA = 2.0
SLOPE = 0.2
"""Slope of the leaky ReLU of `random-conv` below zero."""


class KeylessControl(Scheme):
    """A control without any secret."""

    kind = "control"
    published = "control"

    @classmethod
    def generate(cls) -> Self:
        """Make the scheme; nothing is drawn."""
        return cls()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing: the scheme's name says it all."""
        return {}, {}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the scheme."""
        return cls()


class NoneScheme(KeylessControl):
    """Plain images."""

    name = "none"
    reversible = True

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return a copy of the images."""
        return images.clone()


class BlurScheme(KeylessControl):
    """A Gaussian blur of 2 pixels: what is left shows, and what is gone cannot be learned back."""

    name = "blur"

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the blurred images; the border is continued by its last pixels."""
        return self.forward(images.float()).round().clamp(0, 255).to(torch.uint8)

    def forward(self, images: Tensor) -> Tensor:
        """Blur float images (N, 3, H, W) on any scale; differentiable."""
        radius = round(4 * BLUR_SIGMA)
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
        weights = torch.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
        weights = weights / weights.sum()
        planes = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
        planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
        return planes.view_as(images)


class SecretControl(Scheme):
    """A control that draws something from a secret and cannot be undone by lookup."""

    kind = "control"
    published = "control"

    def __init__(self, master: bytes) -> None:
        if len(master) != KEY_BYTES:
            raise UsageError(f"the key of {self.name} must have {KEY_BYTES} bytes, not {len(master)}")
        self.master = master

    @classmethod
    def generate(cls) -> Self:
        """Make the scheme with a fresh secret from the operating system's randomness."""
        return cls(new_master_key())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The secret."""
        return {"key": torch.frombuffer(bytearray(self.master), dtype=torch.uint8)}, {}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the scheme from a file's content.

        Raises:
            UsageError: the file holds no key.
        """
        return cls(master_key(tensors, cls.name))


class NoiseScheme(SecretControl):
    """Every image becomes independent noise: nothing can be learned, and nothing leaks but which images are equal."""

    name = "noise"

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return noise from the generator, or else from the secret and each image's content."""
        if generator is not None:
            noise = torch.randint(256, images.shape, generator=generator, device=generator.device, dtype=torch.uint8)
            return noise.to(images.device)
        out = np.empty(tuple(images.shape), dtype=np.uint8)
        for plain, row in zip(images.cpu().contiguous().numpy(), out, strict=True):
            content = hashlib.sha256(plain.tobytes()).hexdigest()
            row[:] = key_stream(derive(self.master, f"noise/{content}"), row.size).reshape(row.shape)
        return torch.from_numpy(out).to(images.device)


class RandomConvScheme(SecretControl):
    """An untrained network of three 3x3 convolutions: it changes every colour and hides little."""

    name = "random-conv"
    widths: ClassVar[tuple[int, ...]] = (3, 16, 16, 3)

    def __init__(self, master: bytes) -> None:
        super().__init__(master)
        self.weights = []
        for layer, (inputs, outputs) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            drawn = normals(master, f"random-conv/{layer}", outputs, inputs, 3, 3) / np.sqrt(9 * inputs)
            self.weights.append(torch.from_numpy(drawn.astype(np.float32)))
        self.scale, self.shift = torch.ones(3), torch.zeros(3)
        out = self._network(_smooth_samples(master)).transpose(0, 1).flatten(1)
        # Eight bits hold four standard deviations to either side: photographs clip in about one value of a hundred.
        self.scale = 255 / (8 * out.std(dim=1))
        self.shift = 127.5 - out.mean(dim=1) * self.scale

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the network's output, scaled to 8 bits with the same scale for all images."""
        # In one layout, since another is computed in another order and rounds otherwise on some processors.
        return self._scaled(images.contiguous().float() / 255).round().clamp(0, 255).to(torch.uint8)

    def forward(self, images: Tensor) -> Tensor:
        """Differentiable protection of float images (N, 3, H, W) in [0, 1]."""
        return (self._scaled(images) / 255).clamp(0, 1)

    def _scaled(self, images: Tensor) -> Tensor:
        """From floats in [0, 1] to 0..255, not clipped."""
        out = self._network(images)
        return out * self.scale.to(out.device).view(3, 1, 1) + self.shift.to(out.device).view(3, 1, 1)

    def _network(self, images: Tensor) -> Tensor:
        hidden = images * 2 - 1
        for layer, weight in enumerate(self.weights):
            hidden = F.conv2d(F.pad(hidden, (1,) * 4, mode="replicate"), weight.to(hidden.device))
            if layer < len(self.weights) - 1:
                hidden = F.leaky_relu(hidden, SLOPE)
        return hidden


def _smooth_samples(master: bytes) -> Tensor:
    """Random fields with the scales, contrast and pale colours of photographs, float (64, 3, 32, 32) in [0, 1]."""
    field = torch.zeros(64, 3, 32, 32)
    for side, weight in ((1, 1.2), (4, 0.9), (16, 0.5)):
        for colours, share in ((1, 1.0), (3, 0.3)):
            purpose = f"random-conv/scale {side}, {colours} colours"
            grain = torch.from_numpy(normals(master, purpose, 64, colours, side, side).astype(np.float32))
            field += share * weight * F.interpolate(grain, size=(32, 32), mode="bilinear", align_corners=False)
    return torch.sigmoid(field)


class PixelShuffleScheme(PlaceScheme):
    """The pixels of all images change places by one key; every pixel keeps its colour."""

    name = "shuffle"
    kind = "control"
    has_blocks = False
    published = "control"

    def key_bits(self, height: int, width: int) -> float:
        """A permutation of the pixels."""
        return log2_factorial(height * width)

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for one image size."""
        places = block_places(height, width, 1)
        return place_map(places, places[permutation(self.master, f"shuffle/{height}x{width}", height * width)], False)


class ColourOrderScheme(SharedBlockScheme):
    """The colours of every pixel of all images take one other order: the least that a pixel-wise key can do."""

    name = "colour-order"
    kind = "control"
    has_blocks = False
    published = "control"

    def key_bits(self, height: int, width: int) -> float:
        """One of the five orders that change something."""
        return float(np.log2(5))

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for one image size."""
        places = block_places(height, width, 1)
        order = ORDERS[1 + int(key_choices(self.master, "colour-order", 1, 5)[0])]
        return place_map(places, places[:, order], False)


class BlockPermuteScheme(PlaceScheme):
    """The blocks of all images change places by one key: the first step of `compressible` alone."""

    name = "block-permute"
    kind = "control"
    default_block = 4
    published = "control"

    def key_bits(self, height: int, width: int) -> float:
        """A permutation of the blocks."""
        return log2_factorial(self.blocks_in(height, width))

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for images of whole blocks."""
        places = block_places(height, width, self.block)
        order = permutation(self.master, f"block-permute/{height}x{width}", len(places))
        return place_map(places, places[order], False)


class ClassScheme(Scheme):
    """An image that shows nothing but the class which a classifier of plain images predicts.

    Args:
        network: the classifier, float (N, 3, H, W) in [0, 1] to logits (N, classes).
        architecture: `network`, a name of `CLASSIFIERS`, and its `arguments`, from which `load_scheme` builds it.
    """

    name = "class"
    kind = "control"
    published = "control"
    cells = 4

    def __init__(self, network: nn.Module, architecture: Mapping[str, Any]) -> None:
        self.network = network.eval()
        self.architecture = dict(architecture)

    @torch.no_grad()
    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return for every image the fixed pattern of its predicted class: 4x4 cells of one colour each.

        Raises:
            ImageError: the images are smaller than the classifier takes.
        """
        smallest = int(getattr(self.network, "smallest", 1))
        if min(images.shape[-2:]) < smallest:
            raise ImageError(f"too small: the classifier of {self.name!r} needs {smallest} pixels on a side")
        device = next(self.network.parameters()).device
        logits = self.network(images.to(device).float() / 255)
        patterns = torch.stack([self.pattern(label) for label in range(logits.shape[1])])
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(size) * self.cells // size for size in (height, width))
        return patterns[logits.argmax(1).cpu()][:, :, rows][:, :, :, columns].to(images.device)

    def pattern(self, label: int) -> Tensor:
        """The public pattern of a class, uint8 (3, 4, 4)."""
        stream = key_stream(derive(bytes(KEY_BYTES), f"class/{label}"), 3 * self.cells**2)
        return torch.from_numpy(stream.copy()).view(3, self.cells, self.cells)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The classifier's weights and architecture."""
        return dict(self.network.state_dict()), {"architecture": self.architecture}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the classifier from a scheme file's content.

        Raises:
            UsageError: architecture and weights do not fit.
        """
        try:
            architecture = metadata["architecture"]
            network = CLASSIFIERS[architecture["network"]](**architecture["arguments"])
            network.load_state_dict(dict(tensors))
        except (KeyError, TypeError, RuntimeError) as error:
            raise UsageError("the scheme file's architecture and weights do not fit together") from error
        return cls(network, architecture)
