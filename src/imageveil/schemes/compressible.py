"""Block scrambling that survives JPEG, "encryption-then-compression" (Kurihara, Chuman, Kiya; arXiv 1811.00236)."""

from typing import Any

import numpy as np

from imageveil.schemes.blocks import PlaceMap, block_places, place_map
from imageveil.schemes.keyed import PlaceScheme
from imageveil.schemes.keys import key_choices, log2_factorial, permutation, signs
from imageveil.schemes.pixelwise import ORDERS


def quarter_turns(block: int) -> np.ndarray[Any, Any]:
    """The eight ways to turn and mirror a square block.

    Returns:
        int64 (8, block^2): entry t lists the pixels of the plain block in the order of the result; t % 4 quarter turns
        counter-clockwise, and then, for t >= 4, a mirror image from left to right.
    """
    pixels = np.arange(block**2).reshape(block, block)
    turned = [np.rot90(pixels, turns) for turns in range(4)]
    return np.stack([*turned, *map(np.fliplr, turned)]).reshape(8, -1)


class CompressibleScheme(PlaceScheme):
    """Blocks change places, are turned and mirrored, negated as a whole, and their colour components change places.

    Blocks of 16 pixels fit JPEG with 4:2:0 colour, of 8 JPEG with 4:4:4; of 4 were used for learning on small images.
    """

    name = "compressible"
    default_block = 4
    published = "Kurihara, Chuman and Kiya 2018, arXiv 1811.00236"

    def key_bits(self, height: int, width: int) -> float:
        """N! 8^N 2^N 6^N for N blocks: 717, 150 and 31 bits at 32x32 with blocks of 4, 8 and 16 pixels."""
        blocks = self.blocks_in(height, width)
        return log2_factorial(blocks) + blocks * (3 + 1 + float(np.log2(6)))

    def key_arrays(self, height: int, width: int) -> tuple[np.ndarray[Any, Any], ...]:
        """The keys K1 to K4 for one image size, (B,) each, by the position of the protected block.

        Returns:
            The order of the blocks (block b of the output was block K1[b]), turns 0..7, signs, colour orders 0..5.
        """
        blocks = self.blocks_in(height, width)
        purpose = f"compressible/{height}x{width}"
        return (
            permutation(self.master, f"{purpose}/blocks", blocks),
            key_choices(self.master, f"{purpose}/turns", blocks, 8),
            signs(self.master, f"{purpose}/negative", blocks),
            key_choices(self.master, f"{purpose}/colours", blocks, 6),
        )

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the keys out for images of whole blocks."""
        return scramble_blocks(height, width, self.block, *self.key_arrays(height, width))


def scramble_blocks(
    height: int,
    width: int,
    block: int,
    blocks: np.ndarray[Any, Any],
    turns: np.ndarray[Any, Any],
    negative: np.ndarray[Any, Any],
    colours: np.ndarray[Any, Any],
) -> PlaceMap:
    """Lay out keys in the form that `CompressibleScheme.key_arrays` returns."""
    targets = block_places(height, width, block).reshape(-1, block**2, 3)
    sources = targets[blocks]
    sources = np.take_along_axis(sources, quarter_turns(block)[turns][:, :, None], axis=1)
    sources = np.take_along_axis(sources, ORDERS[colours][:, None, :], axis=2)
    return place_map(targets, sources, negative[:, None, None])
