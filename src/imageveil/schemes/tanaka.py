"""Learnable image encryption, "LE": the halves of all bytes of a block change places and signs (Tanaka)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from imageveil.schemes.blocks import PlaceMap, Places, block_places, halves_of, place_map
from imageveil.schemes.keyed import SharedBlockScheme
from imageveil.schemes.keys import log2_factorial, permutation, signs


def learnable_encryption(places: Places, order: ArrayLike, reverse: ArrayLike) -> PlaceMap:
    """Lay out the key of learnable encryption: reverse halves, then gather them.

    Args:
        places: bytes of the blocks, int64 (B, D), as `block_places` gives them.
        order: K, a permutation of 0..2D-1 that lists the low halves of a block first; (2 D,) for one key, (B, 2 D)
            for one a block.
        reverse: R, bool of the same shape: half j of the plain block becomes 15 minus itself. Then y[j] = n[K[j]].
    """
    halves = halves_of(places, places.size)
    order = np.broadcast_to(np.asarray(order), halves.shape)
    reverse = np.broadcast_to(np.asarray(reverse), halves.shape)
    sources, negated = (np.take_along_axis(array, order, axis=1) for array in (halves, reverse))
    return place_map(halves, sources, negated, halves=True)


class TanakaScheme(SharedBlockScheme):
    """Learnable encryption with one key for all blocks and all images."""

    name = "tanaka"
    default_block = 4
    cloud_change = "adaptation network"
    published = "Tanaka, ICCE-TW 2018"

    def key_bits(self, height: int, width: int) -> float:
        """A permutation of the halves of a block, and a sign for each: 594 bits for 4x4 blocks."""
        halves = 6 * self.block**2
        return log2_factorial(halves) + halves

    def key_arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The permutation K, int64 (6 block^2,), and the reversal mask R, bool (6 block^2,)."""
        halves = 6 * self.block**2
        return permutation(self.master, "tanaka/order", halves), signs(self.master, "tanaka/reverse", halves)

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for images of whole blocks."""
        return learnable_encryption(block_places(height, width, self.block), *self.key_arrays())
