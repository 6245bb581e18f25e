"""Feature reconstruction (Chang and Li, arXiv 2004.13263): outlines from pixel-based encryption, whatever the key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.pixel_statistics import hypotheses
from imageveil.errors import UsageError

VARIANTS = ("basic", "advanced", "least-difference")
CHUNK = 250


@dataclass(frozen=True, kw_only=True)
class FeatureReconstruction(Attack):
    """Feature reconstruction attack, one protected image at a time.

    Attributes:
        variant: `basic` negates every value above 127; `advanced` gives every pixel the one of 48 orders and flips of
            its colours that lies nearest to its neighbour; `least-difference` does so with the 8 flips alone, for
            schemes that negate values and leave colours in place.
    """

    name: ClassVar[str] = "feature-reconstruction"
    needs_plain: ClassVar[bool] = False
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"variant": name} for name in VARIANTS)

    variant: str = "advanced"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UsageError(f"variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Nothing is learned; see `Attack.fit`."""
        self.require(knowledge)
        if self.variant == "basic":
            return Outlines(None)
        keys = torch.from_numpy(hypotheses()).float()
        flips = (keys.abs() == torch.eye(3)).flatten(1).all(dim=1)
        return Outlines(keys[flips] if self.variant == "least-difference" else keys)


class Outlines(Reconstruction):
    """The rules of the paper.

    Args:
        keys: candidates for a pixel's key, signed permutation matrices (K, 3, 3); None for the basic rule.
    """

    def __init__(self, keys: Tensor | None) -> None:
        self.keys = keys

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decide every value or pixel; see `Reconstruction.reconstruct`."""
        if self.keys is None:
            return torch.where(protected > 127, 255 - protected, protected)
        return torch.cat([follow_neighbours(part, self.keys) for part in protected.split(CHUNK)])


def follow_neighbours(images: Tensor, keys: Tensor) -> Tensor:
    """Choose for every pixel the candidate with the least L1 distance to the pixel above (first row: to the left).

    Args:
        images: uint8 (N, 3, H, W). The first pixel, which has no such neighbour, is decided by the basic rule.
        keys: the candidates' keys, signed permutation matrices (K, 3, 3).

    Returns:
        uint8 (N, 3, H, W).
    """
    centred = images.float() - 127.5
    out = centred.clone()
    out[:, :, 0, 0] = -centred[:, :, 0, 0].abs()
    for column in range(1, images.shape[-1]):
        out[:, :, 0, column] = _nearest(keys, centred[:, :, 0, column, None], out[:, :, 0, column - 1, None])[..., 0]
    for row in range(1, images.shape[-2]):
        out[:, :, row] = _nearest(keys, centred[:, :, row], out[:, :, row - 1])
    return (out + 127.5).round().to(torch.uint8)


def _nearest(keys: Tensor, values: Tensor, neighbours: Tensor) -> Tensor:
    """The candidate nearest to the neighbour: (N, 3, W) and (N, 3, W) to (N, 3, W)."""
    candidates = torch.einsum("kij,njw->nkiw", keys, values)
    best = (candidates - neighbours[:, None]).abs().sum(dim=2).argmin(dim=1)
    chosen: Tensor = candidates.gather(1, best[:, None, None].expand(-1, 1, 3, -1))[:, 0]
    return chosen
