"""Give images the colours of other images of the kind, without pairs.

N-dimensional probability density function transfer (Pitié, Kokaram and Dahyot, "N-dimensional probability density
function transfer and its application to colour transfer", ICCV 2005): turn the axes of colour space at random, give the
values along each axis the distribution that they have in the other images, and repeat.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TURNS = 16
"""Random turns of the axes; from about ten on more change little."""

PIXELS = 1 << 18
"""Pixels of either kind that distributions are read off."""

QUANTILES = 1024

Colours = NDArray[np.float32]


class ColourTransfer:
    """A map of colours, the same for every pixel of every image.

    Args:
        images: whose colours are to change, uint8 (N, 3, H, W).
        wanted: images with the colours to have, uint8 (M, 3, H', W').
    """

    def __init__(self, images: Tensor, wanted: Tensor) -> None:
        ours, theirs = (colours_of(given) for given in (images, wanted))
        ours, theirs = (given[:: max(1, len(given) // PIXELS)] for given in (ours, theirs))
        self.turns: list[tuple[Colours, Colours, Colours]] = []
        for number in range(TURNS):
            axes = turned_axes(number)
            turn = (axes, quantiles(ours @ axes), quantiles(theirs @ axes))
            self.turns.append(turn)
            ours = matched(ours, *turn)

    def __call__(self, images: Tensor) -> Tensor:
        """Change the colours of uint8 images (N, 3, H, W)."""
        colours = colours_of(images)
        for turn in self.turns:
            colours = matched(colours, *turn)
        shown = torch.from_numpy(colours.clip(0, 255).round().astype(np.uint8))
        count, _, height, width = images.shape
        return shown.view(count, height, width, 3).permute(0, 3, 1, 2).contiguous()


def colours_of(images: Tensor) -> Colours:
    """The pixels of uint8 images (N, 3, H, W) as float32 (N H W, 3)."""
    return images.permute(0, 2, 3, 1).reshape(-1, 3).numpy().astype(np.float32)


def turned_axes(number: int) -> Colours:
    """Orthonormal axes of colour space (3, 3), one a column: first red, green and blue, then random ones."""
    if number == 0:
        return np.eye(3, dtype=np.float32)
    return np.linalg.qr(np.random.default_rng(number).standard_normal((3, 3)))[0].astype(np.float32)


def quantiles(values: Colours) -> Colours:
    """Quantiles of values (N, 3) along each axis from the least to the largest, (3, `QUANTILES`)."""
    places = np.linspace(0, len(values) - 1, QUANTILES)
    return np.sort(values.T)[:, places.round().astype(int)]


def matched(colours: Colours, axes: Colours, ours: Colours, theirs: Colours) -> Colours:
    """Send values along each axis from quantiles to quantiles, linearly in between and shifted alike beyond.

    Args:
        colours: (N, 3).
        axes: (3, 3), one a column.
        ours: quantiles of the colours along each axis, (3, Q), rising.
        theirs: those wanted, likewise.
    """
    along = colours @ axes
    shifts = [
        np.interp(values, knots, wanted - knots) for values, knots, wanted in zip(along.T, ours, theirs, strict=True)
    ]
    return colours + np.stack(shifts, axis=1).astype(np.float32) @ axes.T
