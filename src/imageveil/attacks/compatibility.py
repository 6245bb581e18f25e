"""How well two pieces of a jigsaw fit: Mahalanobis gradient compatibility, MGC (Gallagher, CVPR 2012)."""

import numpy as np
from numpy.typing import NDArray

from imageveil.attacks.pieces import Changes, Pieces, turn
from imageveil.errors import UsageError

SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right of a piece, below, left, above; as many quarter turns as its number bring a side to the right."""

SLACK = 1.0
"""Added to the covariance of gradients, in squared byte values, so that flat borders can be compared."""

Costs = NDArray[np.float32]

AT_ONCE = 1 << 22
"""Values of borders that are compared at once."""

MOST_JOINS = 2_000_000
"""Joins on one side of all pieces up to which a puzzle is solved in seconds; with more, one image takes minutes."""


def check_joins(pieces: int, changes: Changes) -> None:
    """Refuse a puzzle that would take too long.

    Raises:
        UsageError: there are too many ways to put one piece beside another.
    """
    joins = pieces * pieces * len(changes.members)
    if joins > MOST_JOINS:
        raise UsageError(
            f"{pieces} pieces with {len(changes.members)} changes each can be joined in {joins:,} ways, and jigsaw "
            f"tries at most {MOST_JOINS:,}: a set of images would take days; give smaller images or larger blocks"
        )


def border_costs(pieces: Pieces, changes: Changes) -> Costs:
    """Cost of putting a changed piece beside an unchanged one.

    Args:
        pieces: values about mid-grey, (P, S, S, 3).
        changes: what may have been done to pieces.

    Returns:
        float32 (4, P, C, P): on side d of piece a, with change c, piece b. Small is good; a piece beside itself costs
        infinity.
    """
    count = len(pieces)
    changed = np.concatenate([changes.apply(pieces, member) for member in range(len(changes.members))])
    costs = np.empty((len(SIDES), count, len(changed)), dtype=np.float32)
    for side in range(len(SIDES)):
        left, right = turn(pieces, side), turn(changed, side)
        mean, inverse = _border(left)
        back_mean, back_inverse = _border(right[:, :, ::-1])
        step = max(1, AT_ONCE // right[:, :, 0].size)
        # All gaps of a large puzzle at once are gigabytes.
        for rows in (slice(start, start + step) for start in range(0, count, step)):
            gap = right[None, :, :, 0] - left[rows, None, :, -1]
            costs[side, rows] = _distance(gap, mean[rows, None], inverse[rows, None])
            costs[side, rows] += _distance(-gap, back_mean[None], back_inverse[None])
    out = costs.reshape(len(SIDES), count, -1, count)
    out[:, np.arange(count), :, np.arange(count)] = np.inf
    return out


def _border(pieces: Pieces) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (Q, 3) and inverse covariance (Q, 3, 3) of the steps towards the right border of pieces (Q, S, S, 3)."""
    steps = (pieces[:, :, -1] - pieces[:, :, -2]).astype(np.float64)
    mean = steps.mean(axis=1)
    spread = steps - mean[:, None]
    covariance = spread.swapaxes(1, 2) @ spread / (steps.shape[1] - 1) + SLACK * np.eye(3)
    return mean.astype(np.float32), np.linalg.inv(covariance).astype(np.float32)


def _distance(gap: NDArray[np.float32], mean: NDArray[np.float32], inverse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mahalanobis distance of the steps across a border, summed along it: (A, B, S, 3) to (A, B)."""
    step = gap - mean[:, :, None]
    total: NDArray[np.float32] = ((step @ inverse) * step).sum(axis=(-1, -2))
    return total
