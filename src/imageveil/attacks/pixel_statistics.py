"""Second-order statistics of single pixels: the key of pixel-based encryption from protected images alone.

With one key for all images the colour values of a place are negated and reordered alike in every image. Neighbouring
pixels of photographs are strongly correlated, and plain images from anywhere say how. So each pixel's key is one of 48
(six colour orders, eight sets of flips), and the right one restores the correlations.
"""

from itertools import permutations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks.base import Reconstruction

Array = NDArray[np.float64]

OFFSETS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
"""Neighbours that come first in raster order: left, above, and the two diagonals above."""

MEAN_WEIGHT = 2.0
SWEEPS = 10


def hypotheses() -> Array:
    """The 48 keys of a pixel as signed permutation matrices (48, 3, 3): plain = matrix @ protected about mid-grey."""
    codes = product(permutations(range(3)), product((1.0, -1.0), repeat=3))
    return np.stack([np.eye(3)[list(order)] * np.array(signs)[:, None] for order, signs in codes])


def neighbour_correlations(images: Tensor) -> tuple[Array, Array, Array]:
    """Statistics of every pixel over a set of images.

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        Means about mid-grey (H, W, 3) and standard deviations (H, W, 3), on the scale of bytes; correlations
        (5, H, W, 3, 3) of a pixel's colours with those of itself and of the neighbours in `OFFSETS`, 0 beyond the edge.
    """
    values = images.permute(2, 3, 1, 0).numpy().astype(np.float32) - 127.5
    mean = values.mean(axis=-1, dtype=np.float64)
    values -= mean[..., None].astype(np.float32)
    deviation = np.sqrt(np.square(values).mean(axis=-1, dtype=np.float64)) + 1e-6
    values /= deviation[..., None].astype(np.float32)
    height, width = values.shape[:2]
    found = np.zeros((1 + len(OFFSETS), height, width, 3, 3))
    for slot, (down, right) in enumerate(((0, 0), *OFFSETS)):
        rows = slice(-down, height)
        columns = slice(max(0, -right), width - max(0, right))
        there = values[: height + down, max(0, right) : width + min(0, right)]
        here = values[rows, columns]
        found[slot, rows, columns] = here @ there.swapaxes(-1, -2) / values.shape[-1]
    return mean, deviation, found


def pooled(statistics: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Average plain statistics over all places, for plain images too few or too unlike to trust place by place."""
    mean, deviation, correlations = (np.array(array) for array in statistics)
    mean[:], deviation[:] = mean.mean(axis=(0, 1)), deviation.mean(axis=(0, 1))
    for slot, (down, right) in enumerate(((0, 0), *OFFSETS)):
        rows = slice(-down, None)
        columns = slice(max(0, -right), correlations.shape[2] - max(0, right))
        correlations[slot, rows, columns] = correlations[slot, rows, columns].mean(axis=(0, 1))
    return mean, deviation, correlations


def recover_pixel_key(protected: Tensor, plain: Tensor, *, pool: bool) -> Array:
    """Find the key of every pixel.

    Pixels are decided in raster order by the 48 hypotheses' squared differences from plain statistics, and then again,
    with all eight neighbours known, until none changes.

    Args:
        protected: images under one key, uint8 (N, 3, H, W).
        plain: unpaired plain images, uint8 (M, 3, H, W).
        pool: average the plain statistics over all places.

    Returns:
        Signed permutation matrices (H, W, 3, 3); see `hypotheses`.
    """
    mean, deviation, found = neighbour_correlations(protected)
    reference = neighbour_correlations(plain)
    known_mean, known_deviation, known = pooled(reference) if pool else reference
    keys = hypotheses()
    height, width = mean.shape[:2]
    # What a pixel says by itself: mean, spread and the correlations of its own colours.
    decoded_mean = np.einsum("kij,yxj->yxki", keys, mean)
    decoded_spread = np.einsum("kij,yxj->yxki", np.abs(keys), deviation)
    own = keys @ found[0][:, :, None] @ keys.swapaxes(-1, -2)
    alone = np.square(own - known[0][:, :, None]).sum(axis=(-1, -2))
    alone += MEAN_WEIGHT * np.square((decoded_mean - known_mean[:, :, None]) / known_deviation[:, :, None]).sum(axis=-1)
    alone += MEAN_WEIGHT * np.square(decoded_spread / known_deviation[:, :, None] - 1).sum(axis=-1)
    chosen = np.zeros((height, width), dtype=np.int64)
    for sweep in range(SWEEPS):
        changed = 0
        for y, x in product(range(height), range(width)):
            cost = alone[y, x].copy()
            for slot, (down, right) in enumerate(OFFSETS, start=1):
                if y + down >= 0 and 0 <= x + right < width:
                    decoded = keys @ (found[slot, y, x] @ keys[chosen[y + down, x + right]].T)
                    cost += np.square(decoded - known[slot, y, x]).sum(axis=(-1, -2))
                if sweep and y - down < height and 0 <= x - right < width:
                    there = (y - down, x - right)
                    decoded = keys @ (found[slot][there].T @ keys[chosen[there]].T)
                    cost += np.square(decoded - known[slot][there].T).sum(axis=(-1, -2))
            best = int(cost.argmin())
            changed += best != chosen[y, x]
            chosen[y, x] = best
        if sweep and not changed:
            break
    # Neighbours cannot tell a set from its negative; all pixels together can. Flips are the low three bits of a code.
    places = np.indices(chosen.shape)
    negative = alone[places[0], places[1], chosen ^ 7].sum() < alone[places[0], places[1], chosen].sum()
    matrices: Array = keys[chosen ^ 7 if negative else chosen]
    return matrices


class PixelKey(Reconstruction):
    """The whole key of `pixel-same`: matrices (H, W, 3, 3), which turn protected colours back about mid-grey."""

    def __init__(self, matrices: Array) -> None:
        self.matrices = matrices

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decode with the key; see `Reconstruction.reconstruct`."""
        return apply_pixel_key(protected, self.matrices)


def apply_pixel_key(protected: Tensor, matrices: Array) -> Tensor:
    """Decode uint8 images (N, 3, H, W) with the matrices (H, W, 3, 3) of a `PixelKey`."""
    turn = torch.from_numpy(matrices).float()
    parts = [torch.einsum("yxij,njyx->niyx", turn, part.float() - 127.5) + 127.5 for part in protected.split(500)]
    return torch.cat(parts).round().clamp(0, 255).to(torch.uint8)
