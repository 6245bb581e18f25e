"""Batches of images through a scheme, in bounded memory: images of one size together, large ones in tiles.

A tile is read with a border at least as wide as the network's reach and starts where the scheme's alignment allows,
so that what remains of it after the border is cut off equals the same place of the whole image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product

import numpy as np
import torch
from torch import Tensor

from imageveil.deploy.engines import Engine
from imageveil.deploy.streams import Streams
from imageveil.errors import out_of_memory
from imageveil.images.decode import TOO_LARGE, ImageError
from imageveil.images.pixels import empty_pixels
from imageveil.schemes.base import Scheme

KEYED_BATCH = 2**18  # pixels
Span = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much is computed at once.

    Attributes:
        batch: pixels of a batch of whole images; None for what suits the engine.
        tile: pixels on a side of a tile, border included; None for what suits the engine.
    """

    batch: int | None = None
    tile: int | None = None


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
        self.batch = self.room.batch or (engine.batch if engine is not None else KEYED_BATCH)
        self.tile = self.room.tile or (engine.tile if engine is not None else 0)
        self.streams = Streams(engine.streams if engine is not None else 1)

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

        Raises:
            ImageError: the scheme does not take images of this size, or the memory does not suffice for it.
        """
        (done,) = self.protect_all([(pixels, ids)])
        if isinstance(done, ImageError):
            raise done
        return done

    def protect_all(
        self, groups: Sequence[tuple[np.ndarray, Sequence[str]]], *, spare_memory: bool = False
    ) -> list[np.ndarray | ImageError]:
        """Protect several groups of images, each as `__call__` does; a network works on all of them side by side.

        Args:
            groups: uint8 (N, H, W, 3) and N identities each.
            spare_memory: cut large images into tiles of half the area, where their pixels alone fill the memory.

        Returns:
            What `__call__` returns or raises, for each group.
        """
        if self.engine is None:
            return [self._keyed(pixels, ids) for pixels, ids in groups]
        done = [empty_pixels(pixels.shape) for pixels, _ in groups]
        side = int(self.tile / 2**0.5) if spare_memory else self.tile
        calls = [self._fills(pixels, out, self.engine, side) for (pixels, _), out in zip(groups, done, strict=True)]
        self.streams.run(chain.from_iterable(calls))
        return list(done)

    def _keyed(self, pixels: np.ndarray, ids: Sequence[str]) -> np.ndarray | ImageError:
        """Protect images of one size with a scheme that is not a network; it may pad them.

        What memory such a scheme takes depends on the size alone, so the images share their fate.
        """
        many = max(1, self.batch // (pixels.shape[1] * pixels.shape[2]))
        try:
            out = [
                _numpy(self.scheme.protect(_tensor(pixels[n : n + many]), ids=list(ids[n : n + many])))
                for n in range(0, len(pixels), many)
            ]
            return out[0] if len(out) == 1 else np.concatenate(out)
        except ImageError as error:
            return error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return ImageError(f"{TOO_LARGE} under {self.scheme.name!r}")

    def _fills(self, pixels: np.ndarray, out: np.ndarray, engine: Engine, side: int) -> Iterator[Callable[[], None]]:
        """Calls that each protect a batch or a tile of images of one size, and put it where it belongs in `out`."""
        height, width = pixels.shape[1:3]

        def batch(part: slice) -> None:
            out[part] = _numpy(engine.run(_tensor(pixels[part])))

        def tile(number: int, down: Span, across: Span) -> None:
            top, bottom, above, below = down
            left, right, before, after = across
            part = _numpy(engine.run(_tensor(pixels[number, None, above:below, before:after])))[0]
            out[number, top:bottom, left:right] = part[top - above : bottom - above, left - before : right - before]

        if height * width <= side**2:
            many = max(1, self.batch // (height * width))
            for start in range(0, len(pixels), many):
                yield partial(batch, slice(start, start + many))
            return
        reach, alignment = int(getattr(self.scheme, "reach", 0)), self.scheme.alignment
        # A narrow image gets long tiles: the area is what memory has room for.
        rows = min(height, side)
        columns = side**2 // rows
        downwards, sideways = spans(height, rows, reach, alignment), spans(width, columns, reach, alignment)
        for number, down, across in product(range(len(pixels)), downwards, sideways):
            yield partial(tile, number, down, across)


def spans(length: int, tile: int, reach: int, alignment: int) -> list[Span]:
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
