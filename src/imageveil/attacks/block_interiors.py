"""Which value lies where inside blocks, from second-order statistics alone.

Values of a block are the more alike the closer their places, and the more like those of the next block the closer they
are to the border between them. Plain images from anywhere say how much.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imageveil.attacks.assignment import Array, Order, assign, squared_distances
from imageveil.attacks.block_statistics import standardised
from imageveil.schemes.compressible import quarter_turns
from imageveil.schemes.pixelwise import ORDERS

OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))
"""A block itself and the neighbours that come after it in raster order."""

SWEEPS = 10
Series = NDArray[np.float32]


def block_views(block: int) -> Order:
    """The 48 ways to turn, mirror and recolour a block.

    Returns:
        int64 (48, 3 block^2): view v shows value v[j] of the block at place j. Six colour orders for each of the eight
        turns, the block itself first.
    """
    pixels = np.arange(3 * block**2).reshape(block**2, 3)
    return np.stack([pixels[turn][:, colours].ravel() for turn in quarter_turns(block) for colours in ORDERS])


@dataclass(frozen=True)
class BlockCorrelations:
    """How the values of blocks and of neighbouring blocks hang together, on average over all positions.

    Attributes:
        mean: of every place, (D,).
        deviation: of every place, (D,).
        pairs: correlations (D, D) of a block's values with those of the block at (down, right), itself included.
    """

    mean: Array
    deviation: Array
    pairs: dict[tuple[int, int], Array]

    @classmethod
    def of(cls, values: Series) -> "BlockCorrelations":
        """Gather them from the blocks of images, (N, rows, columns, D)."""
        mean, deviation = values.mean(axis=(0, 1, 2)), values.std(axis=0).mean(axis=(0, 1))
        series = _standardised_series(values)
        pairs: dict[tuple[int, int], Array] = {}
        for down, right in OFFSETS:
            found = _between(series, down, right).mean(axis=(0, 1))
            pairs[down, right], pairs[-down, -right] = found, found.T
        return cls(mean.astype(np.float64), deviation.astype(np.float64), pairs)


def _standardised_series(values: Series) -> Series:
    """Every place of every position with mean 0 and standard deviation 1 over the images; same shape."""
    return standardised(values.reshape(len(values), -1)).reshape(values.shape)


def _between(series: Series, down: int, right: int) -> Array:
    """Correlations (R, C, D, D) of every block that has a neighbour at (down, right) with it."""
    rows, columns = series.shape[1:3]
    here = series[:, : rows - down, max(0, -right) : columns - max(0, right)]
    there = series[:, down:, max(0, right) : columns + min(0, right)]
    found: Array = np.matmul(here.transpose(1, 2, 3, 0), there.transpose(1, 2, 0, 3)).astype(np.float64) / len(series)
    return found


def shared_view(values: Series, known: BlockCorrelations, views: Order) -> Order:
    """Find how all blocks are turned, mirrored and recoloured alike.

    Args:
        values: blocks of images, (N, rows, columns, D), right but for that.
        known: of plain images.
        views: see `block_views`.

    Returns:
        The view that puts them right, int64 (D,).
    """
    found = BlockCorrelations.of(values)

    def cost(view: Order) -> float:
        apart = sum(np.square(found.pairs[at][np.ix_(view, view)] - known.pairs[at]).sum() for at in OFFSETS)
        return float(apart + _own_cost(found.mean[view], found.deviation[view], known))

    return min(views, key=cost)


def _own_cost(mean: Array, deviation: Array, known: BlockCorrelations) -> Array:
    """How unlike plain ones the means and spreads (..., D) of a block's places are, (...)."""
    means = np.square((mean - known.mean) / known.deviation)
    cost: Array = (means + np.square(deviation / known.deviation - 1)).sum(axis=-1)
    return cost


def settle_views(values: Series, known: BlockCorrelations, views: Order) -> Order:
    """Find how every block is turned, mirrored and recoloured on its own.

    Blocks are decided in raster order by what they are like themselves and beside their neighbours, then again until
    none changes. Neighbours hardly tell a colour order of all blocks together; means and spreads do.

    Args:
        values: blocks of images in their right places, (N, rows, columns, D), every position right but for its view.
        known: of plain images.
        views: see `block_views`.

    Returns:
        The view that puts each position right, int64 (rows, columns, D).
    """
    series = _standardised_series(values)
    rows, columns = values.shape[1:3]
    own, right, below = (_between(series, *offset) for offset in OFFSETS[:3])
    mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    alone = np.stack(
        [
            _own_cost(mean[..., view], deviation[..., view], known)
            + np.square(own[..., view[:, None], view] - known.pairs[0, 0]).sum(axis=(-1, -2))
            for view in views
        ],
        axis=-1,
    )

    def beside(found: Array, first: Order, second: Order, offset: tuple[int, int]) -> float:
        return float(np.square(found[np.ix_(first, second)] - known.pairs[offset]).sum())

    chosen = np.full((rows, columns), -1)
    for _ in range(SWEEPS):
        before = chosen.copy()
        for y, x in np.ndindex(rows, columns):
            cost = alone[y, x].copy()
            for slot, view in enumerate(views):
                if x and chosen[y, x - 1] >= 0:
                    cost[slot] += beside(right[y, x - 1], views[chosen[y, x - 1]], view, (0, 1))
                if y and chosen[y - 1, x] >= 0:
                    cost[slot] += beside(below[y - 1, x], views[chosen[y - 1, x]], view, (1, 0))
                if x + 1 < columns and chosen[y, x + 1] >= 0:
                    cost[slot] += beside(right[y, x], view, views[chosen[y, x + 1]], (0, 1))
                if y + 1 < rows and chosen[y + 1, x] >= 0:
                    cost[slot] += beside(below[y, x], view, views[chosen[y + 1, x]], (1, 0))
            chosen[y, x] = cost.argmin()
        if np.array_equal(chosen, before):
            break
    settled = views[chosen]

    def whole(recolour: Order) -> float:
        order = settled[..., recolour]
        total = _own_cost(np.take_along_axis(mean, order, -1), np.take_along_axis(deviation, order, -1), known).sum()
        for (down, across), found in (((0, 0), own), ((0, 1), right), ((1, 0), below)):
            for y, x in np.ndindex(found.shape[:2]):
                total += beside(found[y, x], order[y, x], order[y + down, x + across], (down, across))
        return float(total)

    # The first views are the colour orders of an unturned block: turning all blocks would exchange their places too.
    best: Order = settled[..., min(views[: len(ORDERS)], key=whole)]
    return best


def refine_places(values: Series, order: Order, known: BlockCorrelations) -> Order:
    """Put every block's values in order by their correlations with the values around them.

    Args:
        values: blocks of images in their right places, (N, rows, columns, D).
        order: a first guess of what `settle_views` returns, (rows, columns, D).
        known: of plain images.

    Returns:
        The refined order, int64 (rows, columns, D).
    """
    series, order = _standardised_series(values), order.copy()
    rows, columns, size = order.shape
    for _ in range(SWEEPS):
        before = order.copy()
        for y, x in np.ndindex(rows, columns):
            cost = np.zeros((size, size))
            for (down, right), plain in known.pairs.items():
                if not (0 <= y + down < rows and 0 <= x + right < columns):
                    continue
                there = series[:, y + down, x + right][:, order[y + down, x + right]]
                found = (series[:, y, x].T @ there).astype(np.float64) / len(series)
                cost += squared_distances(plain, found)  # (place, value)
                if (down, right) == (0, 0):
                    # A value is one with itself whatever its place: no evidence.
                    places = np.arange(size)
                    cost[:, order[y, x]] -= np.square(found[order[y, x], places] - plain)
            order[y, x] = assign(cost)
        if np.array_equal(order, before):
            break
    return order
