"""Batches of images through a scheme, in bounded memory: images of one size together, large ones in tiles.

A tile is read with a border at least as wide as the network's reach and starts where the scheme's alignment allows,
so that what remains of it after the border is cut off equals the same place of the whole image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imageveil.deploy.engines import Engine
from imageveil.schemes.base import Scheme


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much is computed at once.

    Attributes:
        batch: pixels of a batch of whole images.
        tile: pixels on a side of a tile, border included.
    """

    batch: int = 2**18
    tile: int = 1024


class Protector:
    """Protects images of any size with a scheme.

    Args:
        scheme: the scheme.
        engine: what its network runs on, or None for a scheme that is not a network: it gets whole images.
        room: how much is computed at once.
    """

    def __init__(self, scheme: Scheme, engine: Engine | None, *, room: Room | None = None) -> None:
        self.scheme = scheme
        self.engine = engine
        self.room = room or Room()

    @property
    def name(self) -> str:
        """Engine and precision, or `scheme` for a scheme that is not a network."""
        return self.engine.name if self.engine is not None else "scheme"

    def __call__(self, pixels: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Protect images of one size.

        Args:
            pixels: uint8 (N, H, W, 3).
            ids: one identity an image.

        Returns:
            uint8 (N, H', W', 3): the size given, or padded to whole blocks by a block scheme.
        """
        height, width = pixels.shape[1:3]
        many = max(1, self.room.batch // (height * width))
        batches = [(pixels[n : n + many], ids[n : n + many]) for n in range(0, len(pixels), many)]
        if self.engine is None:
            out = [_numpy(self.scheme.protect(_tensor(some), ids=list(names))) for some, names in batches]
        elif height * width <= self.room.tile**2:
            out = [_numpy(self.engine.run(_tensor(some))) for some, _ in batches]
        else:
            out = [self._tiled(some[0], self.engine)[None] for some, _ in batches]
        return out[0] if len(out) == 1 else np.concatenate(out)

    def _tiled(self, image: np.ndarray, engine: Engine) -> np.ndarray:
        """Protect one large image (H, W, 3) tile by tile."""
        out = np.empty_like(image)
        reach, alignment = int(getattr(self.scheme, "reach", 0)), self.scheme.alignment
        # A narrow image gets long tiles: the area is what memory has room for.
        rows = min(image.shape[0], self.room.tile)
        columns = self.room.tile**2 // rows
        for top, bottom, above, below in spans(image.shape[0], rows, reach, alignment):
            for left, right, before, after in spans(image.shape[1], columns, reach, alignment):
                tile = _numpy(engine.run(_tensor(image[None, above:below, before:after])))[0]
                out[top:bottom, left:right] = tile[top - above : bottom - above, left - before : right - before]
        return out


def spans(length: int, tile: int, reach: int, alignment: int) -> list[tuple[int, int, int, int]]:
    """Cut a side into tiles.

    Args:
        length: pixels of the side.
        tile: pixels of a tile with its borders, at least.
        reach: pixels that are read on either side, at least, and thrown away.
        alignment: tiles start at multiples of it.

    Returns:
        (start, stop, read from, read to) of each tile; starts to stops cover the side once.
    """
    if length <= tile:
        return [(0, length, 0, length)]
    before = -(-reach // alignment) * alignment
    core = max(alignment, (tile - before - reach) // alignment * alignment)
    return [
        (start, min(start + core, length), max(0, start - before), min(start + core + reach, length))
        for start in range(0, length, core)
    ]


def _tensor(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) as a (N, 3, H, W) view, which is channels last in memory."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(0, 3, 1, 2)


def _numpy(images: Tensor) -> np.ndarray:
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
