"""Block-wise transformations with a secret key (AprilPyone and Kiya, arXiv 2010.00801): the same key in every block."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.schemes.blocks import PlaceMap, block_places, look_up, pad_to_blocks, place_map
from imageveil.schemes.feistel import byte_permutation, published_table
from imageveil.schemes.keyed import KeyedScheme, SharedBlockScheme
from imageveil.schemes.keys import KEY_BYTES, derive, log2_factorial, permutation

PUBLISHED = "AprilPyone and Kiya 2020, arXiv 2010.00801"


class BlockShuffleScheme(SharedBlockScheme):
    """SHF: the 3 M^2 bytes of every block change places, y = x[perm]."""

    name = "block-shuffle"
    default_block = 4
    published = PUBLISHED

    def key_bits(self, height: int, width: int) -> float:
        """A permutation of the bytes of a block."""
        return log2_factorial(3 * self.block**2)

    def key_order(self) -> NDArray[np.int64]:
        """The permutation, int64 (3 block^2,)."""
        return permutation(self.master, "block-shuffle/order", 3 * self.block**2)

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for images of whole blocks."""
        places = block_places(height, width, self.block)
        return place_map(places, places[:, self.key_order()], False)


def half_of_places(master: bytes, purpose: str, block: int) -> NDArray[np.bool_]:
    """Choose half of a block's 3 block^2 places (rounded down), all choices alike; bool (3 block^2,)."""
    size = 3 * block**2
    chosen = np.zeros(size, dtype=np.bool_)
    chosen[permutation(master, purpose, size)[: size // 2]] = True
    return chosen


def half_bits(block: int) -> float:
    """log2 of the number of ways to choose half of a block's places."""
    return math.log2(math.comb(3 * block**2, 3 * block**2 // 2))


class BlockNegativeScheme(SharedBlockScheme):
    """NP: x becomes 255 - x at half of the places of every block."""

    name = "block-negative"
    default_block = 4
    published = PUBLISHED

    def key_bits(self, height: int, width: int) -> float:
        """A choice of half of the places of a block."""
        return half_bits(self.block)

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for images of whole blocks."""
        places = block_places(height, width, self.block)
        return place_map(places, places, half_of_places(self.master, "block-negative/places", self.block))


class BlockFFXScheme(KeyedScheme):
    """FFX: at half of the places of every block a byte is replaced by its format-preserving encryption.

    The published code encrypts three decimal digits; its values up to 999 fit no 8-bit image and its inverse loses
    some. Here the format is a byte: `protect` looks up a keyed permutation of 0..255. `protect_published` gives the
    published form as floats in memory, for comparing accuracy.
    """

    name = "block-ffx"
    default_block = 4
    published = PUBLISHED

    def __init__(self, master: bytes, *, block: int | None = None) -> None:
        super().__init__(master, block=block)
        self.alignment = self.block
        table = byte_permutation(derive(master, "block-ffx/table"))
        self.table = torch.from_numpy(table)
        self.inverse_table = torch.from_numpy(np.argsort(table).astype(np.uint8))
        self.chosen = torch.from_numpy(half_of_places(master, "block-ffx/places", self.block))

    def key_bits(self, height: int, width: int) -> float:
        """A choice of half of the places, and the key of the table."""
        return half_bits(self.block) + 8 * KEY_BYTES

    def key_places(self, height: int, width: int) -> Tensor:
        """Where bytes are replaced in an image of whole blocks, bool (3, H, W)."""
        cell = self.chosen.view(self.block, self.block, 3).permute(2, 0, 1)
        return cell.repeat(1, height // self.block, width // self.block)

    def protect_published(self, images: Tensor, password: bytes) -> Tensor:
        """Protect as the published code does.

        Args:
            images: uint8 (N, 3, H, W).
            password: key of the published table.

        Returns:
            float32 (N, 3, H, W) of whole blocks: bytes, and at the chosen places table entries of up to 999, all
            divided by the largest entry of the table.
        """
        images = pad_to_blocks(images, self.block)
        table = torch.from_numpy(published_table(password)).float().to(images.device)
        places = self.key_places(*images.shape[-2:]).to(images.device)
        return torch.where(places, table[images.int()], images.float()) / table.max()

    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        return look_up(images, self.table, self.key_places(*images.shape[-2:]).flatten().to(torch.uint8) * 255)

    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        places = self.key_places(*protected.shape[-2:]).flatten().to(torch.uint8) * 255
        return look_up(protected, self.inverse_table, places)
