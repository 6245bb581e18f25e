"""Jigsaw puzzle attack on block scrambling: one protected image, whatever its key (after Gallagher, CVPR 2012)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.block_statistics import block_values, from_block_values
from imageveil.attacks.compatibility import border_costs, check_joins
from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.pieces import Changes
from imageveil.attacks.puzzle import solve
from imageveil.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Jigsaw(Attack):
    """Reassembly of every protected image on its own.

    Borders between pieces are compared by MGC; where the scheme turns, negates or recolours pieces, over all 96 changes
    of a piece. The picture as a whole is then turned towards the mean of plain images.
    """

    name: ClassVar[str] = "jigsaw"
    schemes: ClassVar[tuple[str, ...] | None] = ("block-permute", "compressible")

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Learn nothing but the mean of plain images; see `Attack.fit`."""
        self.require(knowledge)
        assert knowledge.scheme.block is not None
        if knowledge.scheme.block < 2:
            raise UsageError("jigsaw compares the borders of pieces; pieces of one pixel have none")
        changes = Changes(full=knowledge.scheme.name == "compressible")
        height, width = knowledge.protected.shape[-2:]
        check_joins((height // knowledge.scheme.block) * (width // knowledge.scheme.block), changes)
        mean = (knowledge.mean_image().permute(1, 2, 0) - 127.5).numpy()
        return Assembly(knowledge.scheme.block, changes, mean)


class Assembly(Reconstruction):
    """Puts pieces together.

    Args:
        block: pixels on a piece's side.
        changes: what may have been done to pieces.
        mean: mean of plain images about mid-grey, (H, W, 3).
    """

    def __init__(self, block: int, changes: Changes, mean: NDArray[np.float32]) -> None:
        self.block, self.changes, self.mean = block, changes, mean

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Reassemble each image; see `Reconstruction.reconstruct`."""
        return torch.cat([self._assemble(image[None]) for image in protected])

    def _assemble(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = height // self.block, width // self.block
        values = block_values(image, self.block)[0].reshape(rows * columns, self.block, self.block, 3)
        pieces = values.astype(np.float32) - 127.5
        order, members = solve(border_costs(pieces, self.changes), self.changes, rows, columns)
        placed = np.stack([self.changes.apply(pieces[p], m) for p, m in zip(order, members, strict=True)])
        blocks = np.rint(placed + 127.5).astype(np.uint8).reshape(1, rows * columns, -1)
        picture = from_block_values(blocks, height, width)
        return self._towards_mean(picture) if self.changes.full else picture

    def _towards_mean(self, picture: Tensor) -> Tensor:
        """The likeliest of the 96 changes of a whole picture (1, 3, H, W): none alters how its pieces fit."""
        values = picture[0].permute(1, 2, 0).numpy().astype(np.float32) - 127.5
        height, width = self.mean.shape[:2]
        views = [self.changes.apply(values, member) for member in range(len(self.changes.members))]
        views = [view for view in views if view.shape == values.shape]
        best = min(views, key=lambda view: float(np.square(view[:height, :width] - self.mean).sum()))
        return torch.from_numpy(np.rint(best + 127.5).astype(np.uint8)).permute(2, 0, 1)[None].contiguous()
