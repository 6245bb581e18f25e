"""Attack by second-order statistics: no network, no pair, only many images under one key (ours).

The published table says of same-key pixel-based encryption that attacks reach an SSIM of 0.17 and 0.27. A thousand
protected images and plain images from elsewhere give its whole key. Block schemes give up thumbnails.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks import block_statistics as blocks
from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.pixel_statistics import apply_pixel_key, recover_pixel_key

Values = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Statistics(Attack):
    """Second-order statistics.

    Attributes:
        protected: how many protected images to use at most.
        plain: how many plain images to use at most.
        pool: take plain statistics to be alike at every place; right where plain images are few or of another kind.
        starts: starts of the quadratic assignment that orders blocks.
    """

    name: ClassVar[str] = "statistics"
    schemes: ClassVar[tuple[str, ...] | None] = ("pixel-same", "tanaka", "extended", "compressible", "block-permute")

    protected: int = 1000
    plain: int = 10000
    pool: bool = False
    starts: int = 30

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Read the key, or what it leaves, off the protected images; see `Attack.fit`."""
        self.require(knowledge)
        seed = (conditions or Conditions()).seed
        protected, plain = knowledge.protected[: self.protected], knowledge.plain[: self.plain]
        if knowledge.scheme.name == "pixel-same":
            return PixelKey(recover_pixel_key(protected, plain, pool=self.pool))
        block = knowledge.scheme.block
        assert block is not None
        height, width = protected.shape[-2:]
        known = blocks.block_values(plain[..., : height // block * block, : width // block * block], block)
        values = blocks.block_values(protected, block)
        if knowledge.scheme.name == "tanaka":
            return SharedThumbnails(values, known, block)
        halves = knowledge.scheme.name == "extended"
        return OrderedThumbnails(values, known, block, halves=halves, starts=self.starts, seed=seed)


class PixelKey(Reconstruction):
    """The whole key of `pixel-same`: matrices (H, W, 3, 3)."""

    def __init__(self, matrices: NDArray[np.float64]) -> None:
        self.matrices = matrices

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decode with the key that was found; see `Reconstruction.reconstruct`."""
        return apply_pixel_key(protected, self.matrices)


class SharedThumbnails(Reconstruction):
    """Brightness of every block where all blocks share one key, from their first principal component."""

    def __init__(self, values: Values, known: Values, block: int) -> None:
        self.block = block
        halves = blocks.split_halves(values).reshape(-1, 2 * values.shape[-1])
        self.brightness = blocks.Brightness(halves, top=15, strong=values.shape[-1])
        plain = known.mean(axis=-1)
        found = self.brightness(halves)
        if blocks.quantile_distance(255 - found, plain) < blocks.quantile_distance(found, plain):
            self.brightness.negate()

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show grey thumbnails; see `Reconstruction.reconstruct`."""
        found = self.brightness(blocks.split_halves(blocks.block_values(protected, self.block)))
        return show_brightness(found, self.block, protected)


class OrderedThumbnails(Reconstruction):
    """Brightness of every block where each position has its own key and the blocks have changed places."""

    def __init__(self, values: Values, known: Values, block: int, *, halves: bool, starts: int, seed: int) -> None:
        self.block, self.halves = block, halves
        self.readers: list[blocks.Brightness] = []
        if halves:
            parts = blocks.split_halves(values)
            for place in range(values.shape[1]):
                self.readers.append(blocks.Brightness(parts[:, place], top=15, strong=values.shape[-1]))
        plain = known.mean(axis=-1, dtype=np.float32)
        series = self._read(values)
        self.flipped = blocks.same_sign(series)
        upright = np.where(self.flipped, 255 - series, series)
        if blocks.quantile_distance(255 - upright, plain) < blocks.quantile_distance(upright, plain):
            self.flipped, upright = ~self.flipped, 255 - upright
        self.order = blocks.order_blocks(upright, plain, starts=starts, seed=seed)

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Show grey thumbnails in the order that was found; see `Reconstruction.reconstruct`."""
        series = self._read(blocks.block_values(protected, self.block))
        return show_brightness(np.where(self.flipped, 255 - series, series)[:, self.order], self.block, protected)

    def _read(self, values: Values) -> NDArray[np.float32]:
        if not self.halves:
            mean: NDArray[np.float32] = values.mean(axis=-1, dtype=np.float32)
            return mean
        parts = blocks.split_halves(values)
        return np.stack([reader(parts[:, place]) for place, reader in enumerate(self.readers)], axis=1)


def show_brightness(brightness: NDArray[np.floating], block: int, like: Tensor) -> Tensor:
    """Grey images with one value a block: (N, B) to uint8 of the shape of `like`, (N, 3, H, W)."""
    height, width = like.shape[-2:]
    grey = torch.from_numpy(np.asarray(brightness)).view(-1, 1, height // block, width // block)
    grey = grey.round().clamp(0, 255).to(torch.uint8)
    return grey.repeat_interleave(block, -2).repeat_interleave(block, -1).expand(-1, 3, -1, -1).contiguous()
