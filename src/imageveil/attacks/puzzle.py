"""Solving a jigsaw from the costs of all joins: Kruskal's algorithm over pieces, then greedy filling.

After Gallagher (CVPR 2012): the best joins first, measured against the second best on the same side of a piece; joins
that would overlap or leave the frame are refused.
"""

from dataclasses import dataclass

import numpy as np

from imageveil.attacks.compatibility import SIDES, Costs
from imageveil.attacks.pieces import Changes

Place = tuple[int, int]

JOINS_TRIED = 100
"""Joins that are tried for each piece, best first, before the rest is filled in."""


@dataclass
class Group:
    """Pieces whose places relative to each other are decided.

    Attributes:
        at: for every occupied place, (row, column) about any origin, the piece and its change.
    """

    at: dict[Place, tuple[int, int]]

    def fits(self, rows: int, columns: int, *, either_way: bool) -> bool:
        """Whether the group fits into a frame of that many pieces, turned if `either_way`."""
        height, width = self.extent()
        return (height <= rows and width <= columns) or (either_way and height <= columns and width <= rows)

    def extent(self) -> tuple[int, int]:
        """Rows and columns that the group spans."""
        rows, columns = zip(*self.at, strict=True)
        return max(rows) - min(rows) + 1, max(columns) - min(columns) + 1

    def changed(self, changes: Changes, member: int, around: Place, target: Place) -> "Group":
        """The whole group changed, so that what was at `around` comes to `target`."""
        moved = {}
        for (row, column), (piece, own) in self.at.items():
            down, right = changes.move((row - around[0], column - around[1]), member)
            moved[target[0] + down, target[1] + right] = (piece, int(changes.products[member, own]))
        return Group(moved)


def solve(costs: Costs, changes: Changes, rows: int, columns: int) -> tuple[list[int], list[int]]:
    """Solve a puzzle.

    Args:
        costs: see `border_costs`.
        changes: what may have been done to pieces.
        rows: pieces from top to bottom.
        columns: pieces from left to right.

    Returns:
        For every place of the frame in raster order the piece and its change.
    """
    group = join(costs, changes, rows, columns)
    height, width = group.extent()
    if height > rows or width > columns:
        group = group.changed(changes, changes.quarter, (0, 0), (0, 0))
    fill(group, costs, changes, rows, columns)
    top, left = (min(place[axis] for place in group.at) for axis in (0, 1))
    found = [group.at[top + row, left + column] for row in range(rows) for column in range(columns)]
    return [piece for piece, _ in found], [member for _, member in found]


def join(costs: Costs, changes: Changes, rows: int, columns: int) -> Group:
    """Join pieces, best join first, and return the largest group."""
    count = costs.shape[1]
    flat = costs.reshape(len(SIDES), count, -1)
    second = np.partition(flat, min(1, flat.shape[-1] - 1), axis=-1)[..., 1:2]
    ratio = (flat / (second + 1e-6)).ravel()
    tried = min(JOINS_TRIED * count, ratio.size)
    best = np.argpartition(ratio, tried - 1)[:tried]
    groups = {piece: Group({(0, 0): (piece, 0)}) for piece in range(count)}
    for code in best[np.argsort(ratio[best], kind="stable")]:
        side, a, change, b = (int(i) for i in np.unravel_index(code, costs.shape))
        first, second_group = groups[a], groups[b]
        if first is second_group or not np.isfinite(costs[side, a, change, b]):
            continue
        place, own = next((place, member) for place, (piece, member) in first.at.items() if piece == a)
        around, other = next((place, member) for place, (piece, member) in second_group.at.items() if piece == b)
        down, right = changes.move(SIDES[side], own)
        member = int(changes.products[changes.products[own, change], changes.inverses[other]])
        moved = second_group.changed(changes, member, around, (place[0] + down, place[1] + right))
        if moved.at.keys() & first.at.keys():
            continue
        merged = Group(first.at | moved.at)
        if merged.fits(rows, columns, either_way=changes.full):
            groups |= {piece: merged for piece, _ in merged.at.values()}
    return max(groups.values(), key=lambda group: len(group.at))


def fill(group: Group, costs: Costs, changes: Changes, rows: int, columns: int) -> None:
    """Add the pieces that are left, each time the one that fits best beside those that lie, within the frame."""
    left = sorted(set(range(costs.shape[1])) - {piece for piece, _ in group.at.values()})
    while left:
        offers = []
        for place in _open_places(group, rows, columns):
            price = _price(place, group, costs, changes)[:, left]
            member, slot = divmod(int(price.argmin()), price.shape[1])
            offers.append((float(price[member, slot]), place, left[slot], member))
        _, place, piece, member = min(offers)
        group.at[place] = (piece, member)
        left.remove(piece)


def _open_places(group: Group, rows: int, columns: int) -> list[Place]:
    """Empty places beside the group that keep it within the frame."""
    beside = {(row + down, column + right) for row, column in group.at for down, right in SIDES} - group.at.keys()
    return sorted(place for place in beside if Group(group.at | {place: (0, 0)}).fits(rows, columns, either_way=False))


def _price(place: Place, group: Group, costs: Costs, changes: Changes) -> Costs:
    """Mean cost of every piece with every change at a place, beside the neighbours that lie: (C, P)."""
    prices = []
    for down, right in SIDES:
        neighbour = group.at.get((place[0] - down, place[1] - right))
        if neighbour is not None:
            piece, own = neighbour
            back = int(changes.inverses[own])
            side = SIDES.index(changes.move((down, right), back))
            prices.append(costs[side, piece, changes.products[back]])
    mean: Costs = np.mean(prices, axis=0)
    return mean
