"""Extended learnable encryption, "ELE": its own key for every block, and the blocks change places (Madono et al.)."""

from typing import Any

import numpy as np

from imageveil.schemes.blocks import PlaceMap, block_places, halves_of, place_map
from imageveil.schemes.keyed import PlaceScheme
from imageveil.schemes.keys import log2_factorial, permutation, permutations, signs


class ExtendedScheme(PlaceScheme):
    """Learnable encryption with a key for every block position, then a permutation of the block positions."""

    name = "extended"
    default_block = 4
    cloud_change = "adaptation network"
    published = "Madono et al. 2020, arXiv 2001.07761"

    def key_bits(self, height: int, width: int) -> float:
        """A permutation and signs for every block, and a permutation of the blocks: 38,330 bits at 32x32."""
        halves = 6 * self.block**2
        blocks = self.blocks_in(height, width)
        return blocks * (log2_factorial(halves) + halves) + log2_factorial(blocks)

    def key_arrays(self, height: int, width: int) -> tuple[np.ndarray[Any, Any], ...]:
        """The keys for one image size.

        Returns:
            Permutations int64 (B, 6 block^2) and reversal masks of the same shape, by the position of the plain
            block; and the order L of the blocks, int64 (B,): block b of the output was block L[b].
        """
        halves, blocks = 6 * self.block**2, self.blocks_in(height, width)
        purpose = f"extended/{height}x{width}"
        return (
            permutations(self.master, f"{purpose}/orders", blocks, halves),
            signs(self.master, f"{purpose}/reverse", blocks, halves),
            permutation(self.master, f"{purpose}/blocks", blocks),
        )

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the keys out for images of whole blocks."""
        orders, reverse, blocks = self.key_arrays(height, width)
        places = block_places(height, width, self.block)
        halves = halves_of(places, places.size)
        sources, negated = (np.take_along_axis(array, orders, axis=1)[blocks] for array in (halves, reverse))
        return place_map(halves, sources, negated, halves=True)
