"""Matching two correlation matrices by the quadratic assignment problem.

Series whose places are unknown have the correlations of the series they come from. The order that makes the two
matrices agree best is found by the Fast Approximate QAP algorithm (Vogelstein et al. 2015) from several starts,
improved by exchanging pairs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, quadratic_assignment

Array = NDArray[np.float64]
Order = NDArray[np.int64]


def assign(cost: NDArray[np.floating]) -> Order:
    """The column for each row of a square matrix that makes the sum least (Hungarian method). int64 (D,)."""
    rows, columns = linear_sum_assignment(cost)
    order = np.empty(len(rows), dtype=np.int64)
    order[rows] = columns
    return order


def squared_distances(rows: NDArray[np.floating | np.integer], columns: NDArray[np.floating | np.integer]) -> Array:
    """Squared distances (R, C) between the rows of (R, F) and of (C, F)."""
    rows, columns = rows.astype(np.float64), columns.astype(np.float64)
    squares: Array = np.square(rows).sum(axis=1)[:, None] + np.square(columns).sum(axis=1)[None]
    return squares - 2 * rows @ columns.T


def match_correlations(found: Array, known: Array, *, starts: int, seed: int) -> tuple[Order, float]:
    """Order unknown series so that their correlations agree with known ones.

    Args:
        found: correlations of the unknown series, (D, D).
        known: correlations in the right order, (D, D).
        starts: number of random starts.
        seed: decides the starts.

    Returns:
        int64 (D,): place d is taken by unknown series order[d]; and the squared difference that remains.
    """
    best, least = np.arange(len(known)), np.inf
    generator = np.random.default_rng(seed)
    for start in range(starts):
        options = {"maximize": True, "P0": "barycenter" if start == 0 else "randomized", "rng": generator}
        coarse = quadratic_assignment(known, found, method="faq", options=options).col_ind
        order, remains = exchange_pairs(found, known, coarse)
        if remains < least:
            best, least = order, remains
    return best, least


def exchange_pairs(found: Array, known: Array, order: Order) -> tuple[Order, float]:
    """Exchange the best pair of places until no exchange lessens the squared difference; see `match_correlations`."""
    order = np.array(order, dtype=np.int64)
    places = np.arange(len(order))
    while True:
        current = found[np.ix_(order, order)]
        # The gain in sum(known * current) from exchanging p and q; the squares of `current` only change places.
        cross = known @ current
        own = np.diag(cross)
        gain = 2 * (cross + cross.T - own[:, None] - own[None, :])
        # Terms among the two places themselves were counted with the wrong partners.
        spread = known[places, places][:, None] + known[places, places][None, :] - 2 * known
        gain += spread * (np.diag(current)[:, None] + np.diag(current)[None, :] - 2 * current)
        p, q = np.unravel_index(np.argmax(gain), gain.shape)
        if gain[p, q] <= 1e-9:
            return order, float(np.square(known - current).sum())
        order[[p, q]] = order[[q, p]]
