"""Attack by known pairs: from a few plain images and their protected selves, the key of every scheme that shares one.

The length of a key says nothing about this.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.key_matching import LAYOUTS, recover_places, recover_scramble, recover_table
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.pixel_statistics import PixelKey, hypotheses
from imageveil.presets.ranges import Count
from imageveil.schemes.blocks import PlaceMap, block_places, look_up, pad_to_blocks


@dataclass(frozen=True, kw_only=True)
class KeyRecovery(Attack):
    """Exact recovery of a shared key.

    Attributes:
        pairs: how many pairs to use at most.
    """

    name: ClassVar[str] = "key-recovery"
    threats: ClassVar[tuple[str, ...]] = ("pairs", "oracle", "gradients")
    schemes: ClassVar[tuple[str, ...] | None] = ("pixel-same", "compressible", "block-ffx", *LAYOUTS)

    pairs: Count = 16

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Solve for the key; see `Attack.fit`."""
        self.require(knowledge)
        known = knowledge.pairs(self.pairs)
        scheme, block = knowledge.scheme.name, knowledge.scheme.block or 1
        plain, protected = pad_to_blocks(known.plain, block), known.protected
        if scheme == "pixel-same":
            return PixelKey(recover_pixels(plain, protected))
        if scheme == "block-ffx":
            return Table(*recover_table(plain, protected, block, knowledge.protected), block)
        if scheme == "compressible":
            return Places(recover_scramble(plain, protected, block))
        return Places(recover_places(plain, protected, block, LAYOUTS[scheme]))


def recover_pixels(plain: Tensor, protected: Tensor) -> NDArray[np.float64]:
    """Choose for every pixel the one of 48 keys that fits the pairs best.

    Args:
        plain: uint8 (k, 3, H, W).
        protected: uint8, same shape.

    Returns:
        Signed permutation matrices (H, W, 3, 3), as in `pixel_statistics`.
    """
    keys = hypotheses()
    target, given = (images.permute(0, 2, 3, 1).numpy() - 127.5 for images in (plain, protected))
    errors = [np.abs(given @ key.T - target).sum(axis=(0, -1)) for key in keys]
    matrices: NDArray[np.float64] = keys[np.argmin(errors, axis=0)]
    return matrices


class Places(Reconstruction):
    """A key that moves and negates values: the map from plain to protected images."""

    def __init__(self, forward: PlaceMap) -> None:
        self.inverse = forward.inverse()

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Undo the map; see `Reconstruction.reconstruct`."""
        return self.inverse.apply(protected)


class Table(Reconstruction):
    """A key of `block-ffx`: where bytes are replaced, bool (3 block^2,), and by what they are replaced back."""

    def __init__(self, chosen: NDArray[np.bool_], inverse: NDArray[np.uint8], block: int) -> None:
        self.chosen, self.inverse, self.block = chosen, torch.from_numpy(inverse), block

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Look the bytes up; see `Reconstruction.reconstruct`."""
        where = torch.zeros(protected[0].numel(), dtype=torch.uint8)
        places = torch.from_numpy(block_places(protected.shape[-2], protected.shape[-1], self.block))
        where[places[:, torch.from_numpy(self.chosen)].flatten()] = 255
        return look_up(protected, self.inverse, where)
