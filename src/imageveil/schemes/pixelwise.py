"""Pixel-based encryption, "PE": every colour value may be negated, and every pixel's colours change places.

Sirichotedumrong et al., ICIP 2019 (arXiv 1905.01827), with the colour shuffling of IEEE Access 7, 2019.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.schemes.blocks import CHUNK_BYTES
from imageveil.schemes.keyed import CACHED_SIZES, KeyedScheme
from imageveil.schemes.keys import choices, derive, image_streams, key_stream

ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
"""The six colour orders by code: the output's (R, G, B) are the input's components at these places."""

SWAPS = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=np.uint8) * 255
"""The same orders as three conditional swaps: components 0 and 1, then 1 and 2, then 0 and 1; 255 where swapped."""

PAIRS = ((0, 1), (1, 2), (0, 1))


def change_pixels(images: Tensor, flips: Tensor, swaps: Tensor, *, undo: bool = False) -> Tensor:
    """Negate colour values, then reorder every pixel's colours; or undo that.

    255 - b is the bitwise complement of b, and two bytes are swapped where a mask says so by three exclusive ors, so
    the whole scheme runs at the speed of memory.

    Args:
        images: uint8 (N, 3, H, W).
        flips: uint8 (N or 1, 3, H, W), 255 where a value is negated and 0 elsewhere.
        swaps: uint8 (N or 1, 3, H, W): for each pixel its row of `SWAPS`.
        undo: undo what the same call without it does.
    """
    out = torch.empty_like(images)
    count = max(1, CHUNK_BYTES // images[0].numel()) if len(images) else 1
    for start in range(0, len(images), count):
        part = slice(start, start + count)
        flip, swap = (key if len(key) == 1 else key[part] for key in (flips, swaps))
        flip, swap = flip.to(images.device), swap.to(images.device)
        colours = list((images[part] if undo else images[part] ^ flip).unbind(1))
        for step in (2, 1, 0) if undo else (0, 1, 2):
            a, b = PAIRS[step]
            difference = (colours[a] ^ colours[b]) & swap[:, step]
            colours[a], colours[b] = colours[a] ^ difference, colours[b] ^ difference
        torch.stack(colours, dim=1, out=out[part])
        if undo:
            out[part] ^= flip
    return out


def key_size(height: int, width: int) -> int:
    """Bytes of key stream for one image: a bit for every value, four bytes for every pixel's order."""
    return -(-3 * height * width // 8) + 4 * height * width


def key_codes(streams: NDArray[np.uint8], height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn key stream into the key of pixel-based encryption.

    Args:
        streams: uint8 (N, key_size(height, width)).
        height: rows of the images.
        width: columns of the images.

    Returns:
        Bits r, uint8 (N, 3, H, W), 1 where a value is negated; colour orders 0..5, uint8 (N, H, W).
    """
    values = 3 * height * width
    bits, words = np.split(streams, [-(-values // 8)], axis=1)
    signs = np.unpackbits(bits, axis=1, count=values).reshape(-1, 3, height, width)
    return signs, choices(words, 6).reshape(-1, height, width)


def key_masks(signs: NDArray[np.uint8], orders: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Turn the result of `key_codes` into `flips` and `swaps` for `change_pixels`."""
    swaps = np.stack([SWAPS[:, step][orders] for step in range(3)], axis=1)
    return torch.from_numpy(signs * np.uint8(255)), torch.from_numpy(swaps)


class PixelScheme(KeyedScheme):
    """What the two pixel-based schemes share."""

    has_blocks = False
    published = "Sirichotedumrong et al. 2019, arXiv 1905.01827"

    def key_bits(self, height: int, width: int) -> float:
        """A bit for every value and one of six orders for every pixel: 5,719 bits at 32x32."""
        return height * width * (3 + float(np.log2(6)))


class PixelSameScheme(PixelScheme):
    """Pixel-based encryption with one key for all images."""

    name = "pixel-same"
    cloud_change = "a stem of 1x1 convolutions"

    def __init__(self, master: bytes, *, block: int | None = None) -> None:
        super().__init__(master, block=block)
        self._masks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def key_masks(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """`flips` and `swaps` of all images of one size, kept for the few sizes used last."""
        size = (height, width)
        masks = self._masks.pop(size, None)
        if masks is None:
            while len(self._masks) >= CACHED_SIZES:
                del self._masks[next(iter(self._masks))]
            key = derive(self.master, f"{self.name}/{height}x{width}")
            stream = key_stream(key, key_size(height, width))[None]
            masks = key_masks(*key_codes(stream, height, width))
        self._masks[size] = masks  # at the end: the first one is the first to go
        return masks

    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        return change_pixels(images, *self.key_masks(*images.shape[-2:]))

    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        return change_pixels(protected, *self.key_masks(*protected.shape[-2:]), undo=True)


class PixelDifferentScheme(PixelScheme):
    """Pixel-based encryption with a key per image, derived from the master key and the image's id.

    The cipher of a shifted or mirrored image looks like the shifted or mirrored cipher of another key, so a cloud may
    augment protected images. Training that protects every view of an image anew passes a generator, and then every
    call draws fresh keys: such views are for training and cannot be revealed.
    """

    name = "pixel-different"
    needs_ids = True

    def key_masks(self, ids: Sequence[str], height: int, width: int) -> tuple[Tensor, Tensor]:
        """`flips` and `swaps` of every image."""
        purpose = f"{self.name}/{height}x{width}"
        streams = image_streams(self.master, purpose, ids, key_size(height, width))
        return key_masks(*key_codes(streams, height, width))

    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        assert ids is not None
        if generator is not None:
            views = torch.randint(1 << 62, (len(ids),), generator=generator, device=generator.device).tolist()
            ids = [f"{identity}/view {view}" for identity, view in zip(ids, views, strict=True)]
        return self._change(images, ids, undo=False)

    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        assert ids is not None
        return self._change(protected, ids, undo=True)

    def _change(self, images: Tensor, ids: Sequence[str], *, undo: bool) -> Tensor:
        height, width = images.shape[-2:]
        # Keys take as much memory as twice the images: make them for a part at a time.
        count = max(1, CHUNK_BYTES // (3 * height * width))
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            out[part] = change_pixels(images[part], *self.key_masks(ids[part], height, width), undo=undo)
        return out
