"""Patch permutation for vision transformers (Qi et al., arXiv 2205.12041; Kiya et al., arXiv 2308.07612).

A transformer sees an image as a set of patches, each multiplied by one matrix. The owner of the key can therefore
convert a model trained on plain images into one that gives equal outputs on protected images, provided that all three
colours are normalised alike: K2 mixes them. Whoever has both the plain and the converted model can read the key off
them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.errors import UsageError
from imageveil.schemes.blocks import PlaceMap, block_places, place_map
from imageveil.schemes.keyed import PlaceScheme
from imageveil.schemes.keys import log2_factorial, permutation


class PatchPermutationScheme(PlaceScheme):
    """The patches of an image change places (K1), and the bytes of every patch change places alike (K2)."""

    name = "patch-permutation"
    default_block = 16
    cloud_change = "the owner converts a transformer's embedding"
    published = "Qi et al. 2022, arXiv 2205.12041"

    def key_bits(self, height: int, width: int) -> float:
        """A permutation of the patches and one of the bytes of a patch."""
        return log2_factorial(self.blocks_in(height, width)) + log2_factorial(3 * self.block**2)

    def patch_order(self, height: int, width: int) -> NDArray[np.int64]:
        """K1 for one image size, int64 (patches,): patch t of the output was patch K1[t]."""
        return permutation(self.master, f"{self.name}/{height}x{width}/patches", self.blocks_in(height, width))

    def byte_order(self) -> NDArray[np.int64]:
        """K2, int64 (3 block^2,): byte j of a protected patch was byte K2[j], in (row, column, channel) order."""
        return permutation(self.master, f"{self.name}/bytes", 3 * self.block**2)

    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the keys out for images of whole patches."""
        places = block_places(height, width, self.block)
        return place_map(places, places[self.patch_order(height, width)][:, self.byte_order()], False)

    def convert_embedding(self, weight: Tensor) -> Tensor:
        """Convert the weight of a patch embedding, E' = K2^T E.

        Args:
            weight: (width, 3, block, block), as of a convolution whose stride is its size.

        Raises:
            UsageError: the weight is for patches of another size.
        """
        if weight.shape[1:] != (3, self.block, self.block):
            raise UsageError(
                f"this key is for patches of {self.block} pixels, not for an embedding of {tuple(weight.shape)}"
            )
        rows = weight.permute(0, 2, 3, 1).flatten(1)[:, torch.from_numpy(self.byte_order())]
        return rows.view(-1, self.block, self.block, 3).permute(0, 3, 1, 2).contiguous()

    def convert_positions(self, positions: Tensor, height: int, width: int) -> Tensor:
        """Convert a table of position embeddings for images of one size.

        Args:
            positions: (..., tokens, width); tokens beyond the number of patches stand first, as a class token does.
            height: rows of the images.
            width: columns of the images.

        Raises:
            UsageError: the table has fewer rows than the images have patches.
        """
        patches = self.blocks_in(height, width)
        extra = positions.shape[-2] - patches
        if extra < 0:
            raise UsageError(f"{positions.shape[-2]} position rows do not suffice for {patches} patches")
        whole = (-(-height // self.block) * self.block, -(-width // self.block) * self.block)
        order = torch.from_numpy(np.concatenate([np.arange(extra), extra + self.patch_order(*whole)]))
        return positions.index_select(-2, order.to(positions.device))
