"""Attack by second-order statistics: no network, no pair, only many images under one key (ours).

The published table says of same-key pixel-based encryption that attacks reach an SSIM of 0.17 and 0.27. A thousand
protected images and plain images from elsewhere give its whole key. Block schemes give up thumbnails, and then what
lies inside their blocks.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks import block_interiors as interiors
from imageveil.attacks import block_statistics as blocks
from imageveil.attacks.assignment import match_correlations
from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.pixel_statistics import PixelKey, recover_pixel_key
from imageveil.attacks.place_statistics import MovedPatches, MovedPixels
from imageveil.presets.ranges import Count
from imageveil.schemes.blocks import pad_to_blocks

Values = NDArray[np.uint8]
Series = NDArray[np.float32]


@dataclass(frozen=True)
class Contents:
    """What a block scheme does inside blocks.

    Attributes:
        halves: whether it works on halves of bytes; the low ones say next to nothing.
        places: whether values keep their places (`kept`), move with a turn, a mirror or a change of colours (`viewed`),
            or go anywhere (`free`).
    """

    halves: bool
    places: str


SHARED = {
    "tanaka": Contents(halves=True, places="free"),
    "block-shuffle": Contents(halves=False, places="free"),
    "block-negative": Contents(halves=False, places="kept"),
}
"""One key for the inside of all blocks, which stay where they are."""

MOVED = {
    "extended": Contents(halves=True, places="free"),
    "compressible": Contents(halves=False, places="viewed"),
    "block-permute": Contents(halves=False, places="kept"),
}
"""Blocks change places; the inside may have a key for each."""


SIDE_PIXELS = 32
"""Pixels on a side of the images by which a picture is told from its mirror image."""

SIDE_IMAGES = 1000
"""How many of them are made at a time."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a block scheme left to look at.

    Attributes:
        values: of protected blocks, uint8 (N, B, D).
        known: of plain blocks, uint8 (M, B, D).
        block: pixels on a block's side.
        grid: rows and columns of blocks.
    """

    values: Values
    known: Values
    block: int
    grid: tuple[int, int]

    def laid_out(self, series: NDArray[np.floating | np.integer]) -> Series:
        """Blocks (N, B, D) as a grid (N, rows, columns, D)."""
        return series.reshape(len(series), *self.grid, -1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Statistics(Attack):
    """Second-order statistics.

    Attributes:
        protected: how many protected images to use at most.
        plain: how many plain images to use at most.
        pool: for `pixel-same`, take plain statistics to be alike at every place; right where plain images are few or of
            another kind.
        starts: starts of the quadratic assignments that order blocks or patches and the places inside blocks: for
            `tanaka`, `extended`, `compressible`, `patch-permutation`, `block-shuffle` and `block-permute`.
        inside: for block schemes, `patch-permutation` apart, put in order what lies inside blocks; without, the result
            is a grey thumbnail.
    """

    name: ClassVar[str] = "statistics"
    schemes: ClassVar[tuple[str, ...] | None] = (
        "pixel-same",
        "shuffle",
        "patch-permutation",
        "block-ffx",
        *SHARED,
        *MOVED,
    )

    protected: Count = 1000
    plain: Count = 10000
    pool: bool = False
    starts: Count = 30
    inside: bool = True

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Read the key, or what it leaves, off the protected images; see `Attack.fit`."""
        self.require(knowledge)
        seed = (conditions or Conditions()).seed
        protected, plain = knowledge.protected[: self.protected], knowledge.plain[: self.plain]
        if knowledge.scheme.name == "pixel-same":
            return PixelKey(recover_pixel_key(protected, plain, pool=self.pool))
        if knowledge.scheme.name == "shuffle":
            return MovedPixels(protected, plain)
        block = knowledge.scheme.block
        assert block is not None
        height, width = protected.shape[-2:]
        seen = Seen(
            values=blocks.block_values(protected, block),
            known=blocks.block_values(pad_to_blocks(plain, block), block),
            block=block,
            grid=(height // block, width // block),
        )
        name, inside = knowledge.scheme.name, self.inside
        if name == "patch-permutation":
            return MovedPatches(seen.values, seen.known, grid=seen.grid, starts=self.starts, seed=seed)
        if name == "block-ffx":
            return ReplacedBytes(seen, inside=inside)
        if name in SHARED:
            return SharedBlocks(seen, SHARED[name], starts=self.starts, inside=inside, seed=seed)
        found = MovedBlocks(seen, MOVED[name], starts=self.starts, inside=inside, seed=seed)
        found.choose_side(knowledge.protected, pad_to_blocks(knowledge.plain, block))
        return found


class SharedBlocks(Reconstruction):
    """Blocks that share one key: their brightness from their first principal component, then the order inside."""

    def __init__(self, seen: Seen, contents: Contents, *, starts: int, inside: bool, seed: int) -> None:
        self.block, self.halves = seen.block, contents.halves
        size = seen.values.shape[-1]
        values = self._values(seen.values).reshape(-1, size * (1 + self.halves))
        self.brightness = blocks.Brightness(values, top=15 if self.halves else 255, strong=size)
        found, plain = self.brightness(values), seen.known.mean(axis=-1)
        if blocks.quantile_distance(255 - found, plain) < blocks.quantile_distance(found, plain):
            self.brightness.negate()
        self.order = np.arange(size) if inside else None
        if inside and contents.places == "free":
            upright = self.brightness.upright(values)
            order = blocks.order_inside(upright, seen.known.reshape(-1, size), starts=starts, seed=seed)
            ordered = seen.laid_out(upright[:, order].reshape(seen.values.shape))
            known = interiors.BlockCorrelations.of(seen.laid_out(seen.known))
            self.order = order[interiors.shared_view(ordered, known, interiors.block_views(self.block))]

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show thumbnails, or whole blocks where their inside was put in order; see `Reconstruction.reconstruct`."""
        values = self._values(blocks.block_values(protected, self.block))
        if self.order is None:
            return blocks.show_brightness(self.brightness(values), self.block, protected)
        return blocks.show_values(self.brightness.upright(values)[..., self.order], protected)

    def _values(self, values: Values) -> Values:
        return blocks.split_halves(values) if self.halves else values


class MovedBlocks(Reconstruction):
    """Blocks that have changed places: brightness of every position, their order, then the order inside each."""

    def __init__(self, seen: Seen, contents: Contents, *, starts: int, inside: bool, seed: int) -> None:
        self.block, self.halves = seen.block, contents.halves
        self.mirrored = False
        self.readers: list[blocks.Brightness] = []
        if self.halves:
            parts = blocks.split_halves(seen.values)
            for place in range(parts.shape[1]):
                self.readers.append(blocks.Brightness(parts[:, place], top=15, strong=seen.values.shape[-1]))
        values = self._read(seen.values)
        series, plain = values.mean(axis=-1), seen.known.mean(axis=-1, dtype=np.float32)
        self.flipped = blocks.same_sign(series)
        upright = np.where(self.flipped, 255 - series, series)
        if blocks.quantile_distance(255 - upright, plain) < blocks.quantile_distance(upright, plain):
            self.flipped, upright = ~self.flipped, 255 - upright
        self.order = blocks.order_blocks(upright, plain, starts=starts, seed=seed)
        self.places: NDArray[np.int64] | None = None
        if inside:
            self.places = self._order_inside(self._placed(values), seen, contents, starts=starts, seed=seed)

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show thumbnails, or whole blocks where their inside was put in order; see `Reconstruction.reconstruct`."""
        values = self._placed(self._read(blocks.block_values(protected, self.block)))
        if self.places is None:
            shown = blocks.show_brightness(values.mean(axis=-1), self.block, protected)
        else:
            shown = blocks.show_values(np.take_along_axis(values, self.places[None], axis=-1), protected)
        return shown.flip(-1) if self.mirrored else shown

    def choose_side(self, protected: Tensor, plain: Tensor) -> None:
        """Choose between what was found and its mirror image, by all the images that the attacker has.

        Nothing in a photograph but slight habits, such as where its light comes from, tells one from the other: where
        images are few, this is little more than tossing a coin.

        Args:
            protected: uint8 (N, 3, H, W).
            plain: uint8 (M, 3, H, W), padded likewise.
        """
        self.mirrored = False
        shown = torch.cat([small_grey(self.reconstruct(part)) for part in torch.split(protected, SIDE_IMAGES)])
        known = torch.cat([small_grey(part) for part in torch.split(plain, SIDE_IMAGES)]).flatten(1).numpy()
        as_is, other = (blocks.moments_distance(views.flatten(1).numpy(), known) for views in (shown, shown.flip(-1)))
        self.mirrored = other < as_is

    def _order_inside(
        self, values: Series, seen: Seen, contents: Contents, *, starts: int, seed: int
    ) -> NDArray[np.int64]:
        """The value at every place of every block of the image, int64 (B, D)."""
        count, size = values.shape[1:]
        order = np.tile(np.arange(size), (count, 1))
        if contents.places == "kept":
            return order
        if contents.places == "free":
            known = blocks.correlations(seen.known.reshape(-1, size))
            few = max(1, starts // 10)  # a first guess, refined below
            found = [blocks.correlations(values[:, b]) for b in range(count)]
            order = np.stack([match_correlations(one, known, starts=few, seed=seed)[0] for one in found])
            values = np.take_along_axis(values, order[None], axis=-1)
        plain = interiors.BlockCorrelations.of(seen.laid_out(seen.known))
        views = interiors.settle_views(seen.laid_out(values), plain, interiors.block_views(self.block))
        if contents.places == "free":
            views = interiors.refine_places(seen.laid_out(values), views, plain)
        return np.take_along_axis(order, views.reshape(count, size), axis=-1)

    def _placed(self, values: Series) -> Series:
        """Upright values of the blocks in the order that was found."""
        placed: Series = np.where(self.flipped[:, None], 255 - values, values)[:, self.order]
        return placed

    def _read(self, values: Values) -> Series:
        if not self.halves:
            return values.astype(np.float32)
        parts = blocks.split_halves(values)
        return np.stack([reader.upright(parts[:, place]) for place, reader in enumerate(self.readers)], axis=1)


class ReplacedBytes(Reconstruction):
    """`block-ffx`: the brighter the bytes around a replaced one, the brighter, on average, what it stands for."""

    def __init__(self, seen: Seen, *, inside: bool) -> None:
        size = seen.values.shape[-1]
        self.block, self.inside = seen.block, inside
        values = seen.values.reshape(-1, size)
        kept = blocks.Brightness(values, top=255, strong=size - size // 2).places
        self.replaced = np.ones(size, dtype=np.bool_)
        self.replaced[kept] = False
        brightness = blocks.brightness_around(values, self.replaced)
        # The code in the brightest surroundings stands for 255, the next one for 254, and so on.
        ranks = np.argsort(brightness, kind="stable")
        self.table = np.empty(256, dtype=np.uint8)
        self.table[ranks] = np.arange(256)

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Put the bytes back, or show thumbnails of those that stayed; see `Reconstruction.reconstruct`."""
        values = blocks.block_values(protected, self.block)
        if not self.inside:
            return blocks.show_brightness(values[..., ~self.replaced].mean(axis=-1), self.block, protected)
        values[..., self.replaced] = self.table[values[..., self.replaced]]
        return blocks.from_block_values(values, *protected.shape[-2:])


def small_grey(images: Tensor) -> Tensor:
    """Brightness of uint8 images (N, 3, H, W), float32 (N, H', W') with at most `SIDE_PIXELS` on a side."""
    height, width = (min(side, SIDE_PIXELS) for side in images.shape[-2:])
    return F.adaptive_avg_pool2d(images.float().mean(dim=1), (height, width))
