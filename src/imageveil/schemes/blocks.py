"""The core of the keyed schemes: view an image as blocks, gather its places, negate, look up, and undo it all.

Every keyed scheme of the literature sends the value at one place of an image to another, possibly negated. The places
are the bytes of the image or, where a scheme splits bytes, their halves. `PlaceMap` is such a scheme for one image
size; each scheme's own file only lays out its key as one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

CHUNK_BYTES = 1 << 18
"""Images are worked on in parts of about this size, which stay in the processor's cache."""

Places = NDArray[np.int64]


@dataclass(frozen=True)
class PlaceMap:
    """out[j] = in[index[j]], negated where `negated[j]`.

    Attributes:
        index: int64 (P,), a permutation of the places. P is 3 H W for the bytes of an image in (channel, row, column)
            order; 6 H W for its halves: first the 4 low bits of all bytes, then the 4 high bits.
        negated: bool (P,). A negated byte b becomes 255 - b, a negated half n becomes 15 - n.
        halves: whether the places are halves of bytes.
    """

    index: Tensor
    negated: Tensor
    halves: bool = False

    @cached_property
    def flips(self) -> Tensor:
        """The negations as bits to flip in every output byte, since 255 - b and 15 - n are bitwise complements."""
        if not self.halves:
            return self.negated.to(torch.uint8) * 255
        low, high = self.negated.to(torch.uint8).chunk(2)
        return low * 15 + high * 240

    @cached_property
    def moves(self) -> bool:
        """Whether any value changes its place."""
        return not torch.equal(self.index, torch.arange(len(self.index)))

    @cached_property
    def negates(self) -> bool:
        """Whether any value is negated."""
        return bool(self.negated.any())

    def inverse(self) -> "PlaceMap":
        """The map that undoes this one."""
        back = torch.argsort(self.index)
        return PlaceMap(back, self.negated[back], self.halves)

    def apply(self, images: Tensor) -> Tensor:
        """Return the mapped images.

        Args:
            images: uint8 (N, 3, H, W), with 3 H W bytes an image as many as the map has.
        """
        flat = images.flatten(1)
        out = torch.empty_like(flat)
        index, flips = self.index.to(images.device), self.flips.to(images.device)
        for part, target in _parts(flat, out):
            order = index.expand(len(part), -1)
            if self.halves:
                low, high = torch.cat([part & 15, part >> 4], dim=1).gather(1, order).chunk(2, dim=1)
                torch.bitwise_or(low, high << 4, out=target)
            elif self.moves:
                torch.gather(part, 1, order, out=target)
            else:
                target.copy_(part)
            if self.negates:
                target ^= flips
        return out.view_as(images)


def pad_to_blocks(images: Tensor, block: int) -> Tensor:
    """Repeat the last row and column until the image (N, 3, H, W) consists of whole blocks."""
    height, width = images.shape[-2:]
    if height % block == 0 and width % block == 0:
        return images
    rows = torch.arange(-(-height // block) * block, device=images.device).clamp(max=height - 1)
    columns = torch.arange(-(-width // block) * block, device=images.device).clamp(max=width - 1)
    return images.index_select(-2, rows).index_select(-1, columns)


def block_places(height: int, width: int, block: int) -> Places:
    """Where the bytes of every block lie in an image.

    Args:
        height: rows, a multiple of `block`.
        width: columns, a multiple of `block`.
        block: pixels on a block's side.

    Returns:
        int64 (B, 3 block^2): blocks in raster order, bytes in (row, column, channel) order, as positions in the
        flattened (3, H, W) image.
    """
    places = np.arange(3 * height * width).reshape(3, height // block, block, width // block, block)
    return places.transpose(1, 3, 2, 4, 0).reshape(-1, 3 * block**2)


def halves_of(places: Places, size: int) -> Places:
    """Positions of the low, then of the high halves of bytes, (B, D) to (B, 2 D), in an image of `size` bytes."""
    return np.concatenate([places, places + size], axis=-1)


def place_map(targets: Places, sources: Places, negated: ArrayLike, *, halves: bool = False) -> PlaceMap:
    """Build a map from the places in the order in which a scheme lists them.

    Args:
        targets: every place of an image once, any shape.
        sources: for each target the place its value comes from, same shape.
        negated: for each target whether it is negated, broadcast to that shape.
        halves: whether the places are halves of bytes.
    """
    index = np.empty(targets.size, dtype=np.int64)
    signs = np.empty(targets.size, dtype=np.bool_)
    index[targets.ravel()] = sources.ravel()
    signs[targets.ravel()] = np.broadcast_to(np.asarray(negated, dtype=np.bool_), targets.shape).ravel()
    return PlaceMap(torch.from_numpy(index), torch.from_numpy(signs), halves)


def look_up(images: Tensor, table: Tensor, places: Tensor) -> Tensor:
    """Replace bytes by their entry in a table.

    Args:
        images: uint8 (N, 3, H, W).
        table: uint8 (256,).
        places: uint8 (3 H W,), 255 where a byte is replaced and 0 where it stays.
    """
    flat = images.flatten(1)
    out = torch.empty_like(flat)
    table, places = table.to(images.device), places.to(images.device)
    for part, target in _parts(flat, out):
        replaced = table.index_select(0, part.flatten().int()).view_as(part)
        torch.bitwise_xor(part, (replaced ^ part) & places, out=target)
    return out.view_as(images)


def _parts(*batches: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut batches (N, bytes) alike into parts of about `CHUNK_BYTES`."""
    count = max(1, CHUNK_BYTES // batches[0].shape[1])
    for start in range(0, len(batches[0]), count):
        yield tuple(batch[start : start + count] for batch in batches)
