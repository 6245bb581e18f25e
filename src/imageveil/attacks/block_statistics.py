"""Second-order statistics of blocks: thumbnails, and the order inside blocks, from protected images alone.

Whatever a block scheme does to the values of a block, they rise and fall together with the block's brightness. Their
first principal component is that brightness; comparing its distribution with that of plain images gives the sign.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks.assignment import Array, Order, match_correlations
from imageveil.schemes.blocks import block_places

QUANTILES = np.linspace(0.005, 0.995, 100)


def block_values(images: Tensor, block: int) -> NDArray[np.uint8]:
    """The bytes of every block in (row, column, channel) order: uint8 (N, 3, H, W) to (N, B, 3 block^2)."""
    places = torch.from_numpy(block_places(images.shape[-2], images.shape[-1], block))
    values: NDArray[np.uint8] = images.flatten(1)[:, places].numpy()
    return values


def from_block_values(values: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """Undo `block_values`: (N, B, 3 block^2) to uint8 (N, 3, H, W)."""
    block = round((values.shape[-1] / 3) ** 0.5)
    places = torch.from_numpy(block_places(height, width, block))
    out = torch.empty(len(values), 3 * height * width, dtype=torch.uint8)
    out[:, places.flatten()] = torch.from_numpy(np.ascontiguousarray(values)).flatten(1)
    return out.view(-1, 3, height, width)


def show_values(values: NDArray[np.float32], like: Tensor) -> Tensor:
    """Images of blocks (N, B, D) in order, uint8 of the shape of `like`."""
    return from_block_values(values.round().clip(0, 255).astype(np.uint8), *like.shape[-2:])


def show_brightness(brightness: NDArray[np.floating], block: int, like: Tensor) -> Tensor:
    """Grey images with one value a block: (N, B) to uint8 of the shape of `like`, (N, 3, H, W)."""
    height, width = like.shape[-2:]
    grey = torch.from_numpy(np.asarray(brightness)).view(-1, 1, height // block, width // block)
    grey = grey.round().clamp(0, 255).to(torch.uint8)
    return grey.repeat_interleave(block, -2).repeat_interleave(block, -1).expand(-1, 3, -1, -1).contiguous()


def split_halves(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Split bytes (..., D) into their low, then their high halves (..., 2 D)."""
    return np.concatenate([values & 15, values >> 4], axis=-1)


def standardised(values: NDArray[np.floating | np.integer]) -> NDArray[np.float32]:
    """Columns of (M, D) with mean 0 and standard deviation 1."""
    values = values.astype(np.float32)
    values -= values.mean(axis=0)
    scaled: NDArray[np.float32] = values / (values.std(axis=0) + 1e-6)
    return scaled


def correlations(values: NDArray[np.floating | np.integer]) -> Array:
    """Correlations (D, D) of the columns of (M, D)."""
    values = standardised(values)
    return (values.T @ values).astype(np.float64) / len(values)


def quantile_distance(values: NDArray[np.floating], known: NDArray[np.floating]) -> float:
    """Mean distance of the quantiles of two samples."""
    return float(np.abs(np.quantile(values, QUANTILES) - np.quantile(known, QUANTILES)).mean())


class Brightness:
    """How bright a block is, read off values that are mixed and partly negated.

    Args:
        sample: values of protected blocks, (M, D), from 0 to `top`.
        top: the largest value, 255 for bytes and 15 for halves of bytes.
        strong: how many values to use: those with the largest share in the first principal component.

    Attributes:
        places: the values used, int64 (strong,).
        negated: which of them fall as the block gets brighter, bool (strong,); `negate` exchanges the two.
    """

    def __init__(self, sample: NDArray[np.uint8], *, top: int, strong: int) -> None:
        axis = np.linalg.eigh(correlations(sample)).eigenvectors[:, -1]
        self.top = top
        self.places = np.sort(np.argsort(-np.abs(axis), kind="stable")[:strong])
        self.negated = axis[self.places] < 0

    def upright(self, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The values used, none of them negated, on the scale of bytes: (..., D) to (..., strong)."""
        chosen = values[..., self.places].astype(np.float32)
        chosen = np.where(self.negated, self.top - chosen, chosen)
        scaled: NDArray[np.float32] = (chosen + 0.5) * (256 / (self.top + 1)) - 0.5
        return scaled

    def __call__(self, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Brightness on the scale of bytes: (..., D) to (...)."""
        mean: NDArray[np.float32] = self.upright(values).mean(axis=-1)
        return mean

    def negate(self) -> None:
        """Take dark for bright."""
        self.negated = ~self.negated


def brightness_around(values: NDArray[np.uint8], replaced: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How bright the bytes that stayed are, on average, where each code stands for a byte that was replaced.

    Args:
        values: bytes of protected blocks, (M, D).
        replaced: at which places bytes are replaced, bool (D,).

    Returns:
        float64 (256,), by code; 0 for codes that do not occur.
    """
    codes = values[:, replaced].ravel()
    around = np.repeat(values[:, ~replaced].mean(axis=1), int(replaced.sum()))
    total = np.bincount(codes, weights=around, minlength=256)
    brightness: NDArray[np.float64] = total / np.maximum(np.bincount(codes, minlength=256), 1)
    return brightness


def order_inside(values: NDArray[np.float32], plain: NDArray[np.uint8], *, starts: int, seed: int) -> Order:
    """Find which place of a block each series belongs to.

    Args:
        values: upright values of the same blocks, (M, D), the places unknown.
        plain: bytes of plain blocks, (P, D), in (row, column, channel) order.
        starts: number of starts of the quadratic assignment.
        seed: decides the starts.

    Returns:
        int64 (D,): place d is taken by series order[d], up to the symmetries of a square and of colours.
    """
    return match_correlations(correlations(values), correlations(plain), starts=starts, seed=seed)[0]


def order_blocks(series: NDArray[np.float32], plain: NDArray[np.float32], *, starts: int, seed: int) -> Order:
    """Find where each block position lies.

    Args:
        series: brightness of every protected block position over the images, (N, B), none negated.
        plain: brightness of every block position of plain images, (M, B).
        starts: number of starts of the quadratic assignment.
        seed: decides the starts.

    Returns:
        int64 (B,): position b of the image is shown by protected position order[b].
    """
    order, _ = match_correlations(correlations(series), correlations(plain), starts=starts, seed=seed)
    # Correlations hardly tell an image from its mirror image; means and spreads do.
    return min(square_views(order), key=lambda view: moments_distance(series[:, view], plain))


def square_views(order: Order) -> list[Order]:
    """The eight ways to turn and mirror a square of positions (B,); one that is no square is left alone."""
    side = round(len(order) ** 0.5)
    if side * side != len(order):
        return [order]
    turned = [np.rot90(order.reshape(side, side), turns) for turns in range(4)]
    return [view.ravel() for view in (*turned, *map(np.fliplr, turned))]


def moments_distance(series: NDArray[np.float32], plain: NDArray[np.float32]) -> float:
    """Squared difference of means, spreads and correlations of two sets of series, (N, B) and (M, B)."""
    spread = float(plain.std())
    means = np.square((series.mean(axis=0) - plain.mean(axis=0)) / spread).sum()
    spreads = np.square((series.std(axis=0) - plain.std(axis=0)) / spread).sum()
    return float(means + spreads + np.square(correlations(series) - correlations(plain)).sum() / len(plain.T))


def same_sign(series: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the series (N, B) fall while most rise: the signs of the first principal component."""
    axis = np.linalg.eigh(correlations(series)).eigenvectors[:, -1]
    flipped: NDArray[np.bool_] = axis * np.sign(axis.sum() or 1.0) < 0
    return flipped
