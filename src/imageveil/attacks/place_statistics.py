"""Where every value of an image lies, when one key has put all of them elsewhere: from protected images alone.

The correlations of all places form a matrix, and a key that moves values only moves its rows and columns. The principal
axes of that matrix give every place coordinates; those of plain images give them in the right order, up to the sign of
every axis and a turn among axes that weigh alike. Matching the two clouds of places, axis by axis, is the spectral way
to solve a quadratic assignment (Umeyama 1988), and needs seconds where a search fails: ours.
"""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from imageveil.attacks import block_statistics as blocks
from imageveil.attacks.assignment import Array, Order, assign, squared_distances
from imageveil.attacks.base import Reconstruction
from imageveil.errors import UsageError

SIGNED_AXES = 6
"""The first axes, of which all combinations of signs are tried."""

AXES = 40
GROWTH = 1.3
SETTLED = 0.995
MOST_ROUNDS = 60

MOMENTS = (3.0, 1.0, 0.33, 0.0)
"""Weights of every place's mean and spread beside its coordinates, one after the other. They tell an image from its
mirror image at first; later they disturb, since other plain images have other means."""

MOST_PLACES = 4096
"""The matching takes time with the third power of the number of places."""

FEW = 6
"""Patches up to which all orders are tried."""

Series = NDArray[np.float32]


def lay_out(found: NDArray[np.floating | np.integer], known: NDArray[np.floating | np.integer]) -> Order:
    """Find the place of every series.

    Args:
        found: values of protected images at unknown places, (N, D).
        known: values of plain images in order, (M, D).

    Returns:
        int64 (D,): place d is taken by series order[d].

    Raises:
        UsageError: there are more than 4,096 places.
    """
    size = known.shape[1]
    if size > MOST_PLACES:
        raise UsageError(f"{size} places are too many to lay out; the attack is for at most {MOST_PLACES}")
    ours, theirs = _coordinates(found), _coordinates(known)
    moments, wanted = _moments(found), _moments(known)
    first = min(SIGNED_AXES, size)
    signs = _signs(ours[:, :first], theirs[:, :first], MOMENTS[0] * moments, MOMENTS[0] * wanted)
    turned, axes, stage = ours[:, :first] * signs, first, 0
    order = np.arange(size)
    for _ in range(MOST_ROUNDS):
        weight = MOMENTS[stage]
        place = np.concatenate([theirs[:, :axes], weight * wanted], axis=1)
        before, order = order, assign(squared_distances(place, np.concatenate([turned, weight * moments], axis=1)))
        if axes < ours.shape[1]:
            axes = min(ours.shape[1], int(GROWTH * axes) + 1)
        elif np.mean(order == before) > SETTLED:
            stage += 1
            if stage == len(MOMENTS):
                break
        # The turn that brings our axes nearest to theirs (orthogonal Procrustes).
        left, _, right = np.linalg.svd(ours[order, :axes].T @ theirs[:, :axes])
        turned = ours[:, :axes] @ (left @ right)
    return order


def _coordinates(values: NDArray[np.floating | np.integer]) -> Array:
    """Principal axes of the correlations times the root of their share, (D, axes), the largest first."""
    shares, axes = np.linalg.eigh(blocks.correlations(values))
    most = slice(None, -min(AXES, len(shares)) - 1, -1)
    scaled: Array = axes[:, most] * np.sqrt(shares[most].clip(min=0))
    return scaled


def _moments(values: NDArray[np.floating | np.integer]) -> Array:
    """Mean and standard deviation of every place in units of the whole spread, (D, 2)."""
    spread = values.std()
    moments: Array = np.stack([values.mean(axis=0), values.std(axis=0)], axis=1) / spread
    return moments


def _signs(ours: Array, theirs: Array, moments: Array, wanted: Array) -> Array:
    """The signs of our axes (A,) under which both clouds of places lie nearest to each other."""
    target = np.concatenate([theirs, wanted], axis=1)
    tree = cKDTree(target)

    def distance(signs: tuple[int, ...]) -> float:
        cloud = np.concatenate([ours * signs, moments], axis=1)
        return float(np.square(tree.query(cloud)[0]).sum() + np.square(cKDTree(cloud).query(target)[0]).sum())

    return np.array(min(itertools.product((1, -1), repeat=ours.shape[1]), key=distance))


class MovedPixels(Reconstruction):
    """`shuffle`: every pixel keeps its colour and goes anywhere."""

    def __init__(self, protected: Tensor, plain: Tensor) -> None:
        self.order = torch.from_numpy(lay_out(_brightness(protected), _brightness(plain)))

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Put the pixels back; see `Reconstruction.reconstruct`."""
        return protected.flatten(2)[..., self.order].view_as(protected)


class MovedPatches(Reconstruction):
    """`patch-permutation`: the bytes of all patches change places alike, then patches change places.

    Args:
        values: bytes of protected patches, uint8 (N, B, D).
        plain: bytes of plain patches in (row, column, channel) order, uint8 (M, B, D).
        grid: rows and columns of patches.
        starts: starts of the search for the order of many patches.
        seed: decides them.
    """

    def __init__(
        self,
        values: NDArray[np.uint8],
        plain: NDArray[np.uint8],
        *,
        grid: tuple[int, int],
        starts: int,
        seed: int,
    ) -> None:
        size = values.shape[-1]
        self.block = round((size / 3) ** 0.5)
        self.bytes = lay_out(values.reshape(-1, size), plain.reshape(-1, size))
        upright = values[..., self.bytes]
        count = grid[0] * grid[1]
        if count <= FEW:
            orders = [np.array(order) for order in itertools.permutations(range(count))]
        else:
            means = [patches.mean(axis=-1, dtype=np.float32) for patches in (upright, plain)]
            orders = blocks.square_views(blocks.order_blocks(means[0], means[1], starts=starts, seed=seed))
        seams = _seams(upright, self.block)
        self.patches = min(orders, key=lambda order: _seam_cost(seams, order.reshape(grid)))

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Put patches and bytes back; see `Reconstruction.reconstruct`."""
        values = blocks.block_values(protected, self.block)[:, self.patches][..., self.bytes]
        return blocks.from_block_values(values, *protected.shape[-2:])


def _brightness(images: Tensor) -> Series:
    """Mean of the colours of every pixel: uint8 (N, 3, H, W) to (N, HW)."""
    return images.float().mean(dim=1).flatten(1).numpy()


def _seams(values: NDArray[np.uint8], block: int) -> tuple[Array, Array]:
    """Mean squared differences (B, B) of bytes along the border if patch b lay right of, or below, patch a."""
    pixels = values.reshape(*values.shape[:2], block, block, 3).astype(np.float64)
    borders = [
        (pixels[:, :, :, -1], pixels[:, :, :, 0]),
        (pixels[:, :, -1], pixels[:, :, 0]),
    ]
    right, below = (
        squared_distances(*(side.transpose(1, 0, 2, 3).reshape(values.shape[1], -1) for side in sides))
        for sides in borders
    )
    return right, below


def _seam_cost(seams: tuple[Array, Array], grid: Order) -> float:
    """Sum of the differences along all borders of patches that lie as in `grid` (rows, columns)."""
    right, below = seams
    return float(right[grid[:, :-1], grid[:, 1:]].sum() + below[grid[:-1], grid[1:]].sum())
