"""What all keyed schemes share: the key file, padding to whole blocks, and undoing."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

import imageveil
from imageveil.errors import UsageError
from imageveil.schemes.base import Scheme
from imageveil.schemes.blocks import PlaceMap, pad_to_blocks
from imageveil.schemes.keys import KEY_BYTES, derive, new_master_key

WHOLE_IMAGE = 1 << 30
"""The alignment of schemes whose key differs from place to place: no tile but the whole image may be protected."""

LARGE = 1 << 20
"""Pixels from which an image whose blocks share one key is worked on strip by strip."""

CACHED_SIZES = 4


def master_key(tensors: Mapping[str, Tensor], name: str) -> bytes:
    """The master key in the content of a key file of the scheme `name`.

    Raises:
        UsageError: there is none, or what is there is no key.
    """
    key = tensors.get("key")
    if key is None or key.dtype != torch.uint8 or key.ndim != 1:
        raise UsageError(f"the file holds no usable key of {name}; make one with: imageveil keygen {name} FILE")
    return bytes(key.tolist())


class KeyedScheme(Scheme):
    """A scheme whose secret is a key, and which its owner can undo bit for bit.

    Args:
        master: the master key, 32 bytes.
        block: pixels on a block's side; None takes the scheme's default. Schemes that work on pixels have none.

    Raises:
        UsageError: the key or the block size cannot be.
    """

    kind = "key"
    reversible = True
    default_block: ClassVar[int] = 1
    has_blocks: ClassVar[bool] = True

    def __init__(self, master: bytes, *, block: int | None = None) -> None:
        if len(master) != KEY_BYTES:
            raise UsageError(f"the key of {self.name} must have {KEY_BYTES} bytes, not {len(master)}")
        if block is not None and not self.has_blocks and block != self.default_block:
            raise UsageError(f"{self.name} has no blocks; leave --block out")
        self.master = master
        self.block = self.default_block if block is None else block
        if type(self.block) is not int or not 1 <= self.block <= 256:
            raise UsageError(f"the block size of {self.name} must be from 1 to 256 pixels, not {self.block}")
        self.alignment = WHOLE_IMAGE

    @classmethod
    def generate(cls, **parameters: Any) -> Self:
        """Make a scheme with a fresh key from the operating system's randomness."""
        return cls(new_master_key(), **parameters)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that tell keys apart and say nothing about the key."""
        return derive(self.master, f"{self.name}/fingerprint").hex()[:16]

    def blocks_in(self, height: int, width: int) -> int:
        """The number of blocks of an image of this size, with those that padding completes."""
        return -(-height // self.block) * -(-width // self.block)

    @abstractmethod
    def key_bits(self, height: int, width: int) -> float:
        """log2 of the number of different keys for images of this size, as published; the key file holds 256 bits."""

    @abstractmethod
    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        """Protect uint8 images (N, 3, H, W) of whole blocks."""

    @abstractmethod
    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        """Undo `_forward`."""

    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Protect a uint8 batch, padded to whole blocks; see `Scheme.protect`.

        Raises:
            UsageError: the scheme has a key per image and there is not one id for each.
        """
        self._check_ids(images, ids)
        return self._forward(pad_to_blocks(images, self.block), ids, generator)

    def reveal(
        self, protected: Tensor, size: tuple[int, int] | None = None, ids: Sequence[str] | None = None
    ) -> Tensor:
        """Undo `protect`.

        Args:
            protected: protected images, uint8 (N, 3, H', W').
            size: true height and width of the plain images; None leaves the padding on.
            ids: the identities the images were protected under, for schemes with a key per image.

        Returns:
            Plain images, uint8 (N, 3, H, W): those that were protected, if this is the key they were protected with.

        Raises:
            UsageError: the images do not consist of whole blocks, are smaller than `size`, or ids are missing.
        """
        self._check_ids(protected, ids)
        height, width = protected.shape[-2:]
        if height % self.block or width % self.block:
            raise UsageError(
                f"an image of {width}x{height} pixels does not consist of whole blocks of {self.block} pixels: "
                f"it was not protected with this {self.name} key"
            )
        rows, columns = size or (height, width)
        if rows > height or columns > width:
            raise UsageError(f"a protected image of {width}x{height} cannot hold a plain one of {columns}x{rows}")
        return self._backward(protected, ids)[..., :rows, :columns].contiguous()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The master key; version and parameters."""
        key = torch.frombuffer(bytearray(self.master), dtype=torch.uint8)
        parameters = {"block": self.block} if self.has_blocks else {}
        return {"key": key}, {"version": imageveil.__version__, "parameters": parameters}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the scheme from a key file's content.

        Raises:
            UsageError: the file has no key of this scheme.
        """
        try:
            return cls(master_key(tensors, cls.name), **metadata["parameters"])
        except (KeyError, TypeError) as error:
            raise UsageError(f"the file has no parameters of {cls.name}; restore it from a copy") from error

    def _check_ids(self, images: Tensor, ids: Sequence[str] | None) -> None:
        if self.needs_ids and (ids is None or len(ids) != len(images)):
            given = "none" if ids is None else str(len(ids))
            raise UsageError(f"{self.name} has a key per image: give one id for each of {len(images)}, not {given}")


class PlaceScheme(KeyedScheme):
    """A keyed scheme that is one `PlaceMap` for all images of a size."""

    def __init__(self, master: bytes, *, block: int | None = None) -> None:
        super().__init__(master, block=block)
        self._maps: dict[tuple[int, int], tuple[PlaceMap, PlaceMap]] = {}

    @abstractmethod
    def place_map(self, height: int, width: int) -> PlaceMap:
        """Lay the key out for images of whole blocks."""

    def _both(self, height: int, width: int) -> tuple[PlaceMap, PlaceMap]:
        """The map and its inverse, kept for the few sizes used last."""
        size = (height, width)
        both = self._maps.pop(size, None)
        if both is None:
            while len(self._maps) >= CACHED_SIZES:
                del self._maps[next(iter(self._maps))]
            forward = self.place_map(height, width)
            both = (forward, forward.inverse())
        self._maps[size] = both  # at the end: the first one is the first to go
        return both

    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        return self._both(images.shape[-2], images.shape[-1])[0].apply(images)

    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        return self._both(protected.shape[-2], protected.shape[-1])[1].apply(protected)


class SharedBlockScheme(PlaceScheme):
    """A place scheme with the same key in every block, so that tiles of whole blocks agree with the whole image."""

    def __init__(self, master: bytes, *, block: int | None = None) -> None:
        super().__init__(master, block=block)
        self.alignment = self.block

    def _forward(self, images: Tensor, ids: Sequence[str] | None, generator: torch.Generator | None) -> Tensor:
        return self._in_strips(images, 0)

    def _backward(self, protected: Tensor, ids: Sequence[str] | None) -> Tensor:
        return self._in_strips(protected, 1)

    def _in_strips(self, images: Tensor, direction: int) -> Tensor:
        """Apply the map (0) or its inverse (1); a large image is taken as many images one block high."""
        height, width = images.shape[-2:]
        if height * width < LARGE:
            return self._both(height, width)[direction].apply(images)
        count, rows = len(images), height // self.block
        strips = images.reshape(count, 3, rows, self.block, width).transpose(1, 2).flatten(0, 1)
        out = self._both(self.block, width)[direction].apply(strips)
        return out.view(count, rows, 3, self.block, width).transpose(1, 2).reshape(images.shape)
