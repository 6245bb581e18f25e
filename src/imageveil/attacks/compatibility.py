"""How well two pieces of a jigsaw fit: Mahalanobis gradient compatibility, MGC (Gallagher, CVPR 2012)."""

import numpy as np
from numpy.typing import NDArray

from imageveil.attacks.pieces import Changes, Pieces, turn

SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right of a piece, below, left, above; as many quarter turns as its number bring a side to the right."""

SLACK = 1.0
"""Added to the covariance of gradients, in squared byte values, so that flat borders can be compared."""

Costs = NDArray[np.float32]


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
        gap = right[None, :, :, 0] - left[:, None, :, -1]
        mean, inverse = _border(left)
        costs[side] = _distance(gap, mean[:, None], inverse[:, None])
        mean, inverse = _border(right[:, :, ::-1])
        costs[side] += _distance(-gap, mean[None], inverse[None])
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
