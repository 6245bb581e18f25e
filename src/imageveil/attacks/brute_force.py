"""Brute force: try every key and keep the one whose images are smoothest.

Real keys have hundreds of bits; the search is real where an owner cut theirs short, and shows that a wrong key can be
told from the right one without any plain image.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge
from imageveil.errors import UsageError
from imageveil.presets.ranges import Count
from imageveil.schemes.base import SCHEMES
from imageveil.schemes.keyed import KeyedScheme
from imageveil.schemes.keys import KEY_BYTES

LONGEST = 24


@dataclass(frozen=True, kw_only=True)
class BruteForce(Attack):
    """Search of all keys whose bits are zero but for the last few.

    Attributes:
        bits: how many bits the shortened key has.
        images: how many protected images to score a key on.
    """

    name: ClassVar[str] = "brute-force"
    needs_plain: ClassVar[bool] = False
    schemes: ClassVar[tuple[str, ...] | None] = tuple(
        name for name, kind in SCHEMES.items() if issubclass(kind, KeyedScheme) and not kind.needs_ids
    )

    bits: Count = 16
    images: Count = 2

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= LONGEST:
            raise UsageError(f"bits must be from 1 to {LONGEST}, not {self.bits}: longer keys cannot be searched")

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Search; see `Attack.fit`."""
        self.require(knowledge)
        kind = SCHEMES[knowledge.scheme.name]
        assert issubclass(kind, KeyedScheme)
        block, sample = knowledge.scheme.block, knowledge.protected[: self.images].clone()
        best, least = 0, float("inf")
        for number in range(1 << self.bits):
            score = total_variation(kind(short_key(number), block=block).reveal(sample))
            if score < least:
                best, least = number, score
        return FoundKey(kind(short_key(best), block=block), tried=1 << self.bits)


def short_key(number: int) -> bytes:
    """The master key that spells a number, with zeros in front; 32 bytes."""
    return number.to_bytes(KEY_BYTES, "big")


def total_variation(images: Tensor) -> float:
    """Mean absolute difference of neighbouring values of uint8 images (N, 3, H, W)."""
    values = images.to(torch.int16)
    across, down = (values.diff(dim=axis).abs().float().mean() for axis in (-1, -2))
    return float(across + down)


class FoundKey(Reconstruction):
    """A scheme with the key that was found."""

    def __init__(self, scheme: KeyedScheme, *, tried: int) -> None:
        self.scheme, self.tried = scheme, tried

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Undo the scheme; see `Reconstruction.reconstruct`."""
        return self.scheme.reveal(protected)

    def figures(self) -> dict[str, float]:
        """How many keys were tried."""
        return {"keys_tried": float(self.tried)}
