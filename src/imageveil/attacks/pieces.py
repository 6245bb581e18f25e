"""What may have been done to a piece of a jigsaw, as a group: turns and mirror images, negation, colour orders."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imageveil.schemes.pixelwise import ORDERS

Pieces = NDArray[np.float32]

SYMMETRIES = 8


def turn(pieces: Pieces, symmetry: int) -> Pieces:
    """Turn pieces (..., S, S, 3) by symmetry % 4 quarter turns, then mirror them left to right from 4 on."""
    turned = np.rot90(pieces, symmetry % 4, axes=(-3, -2))
    result: Pieces = np.ascontiguousarray(turned[..., ::-1, :] if symmetry >= 4 else turned)
    return result


@dataclass(frozen=True)
class Changes:
    """The group of changes that a scheme may make to a piece, (symmetry, sign, colour order) each.

    Attributes:
        full: whether pieces may be turned, negated and recoloured; else they only change places.
    """

    full: bool

    @cached_property
    def members(self) -> list[tuple[int, int, int]]:
        """All members; the first changes nothing."""
        if not self.full:
            return [(0, 1, 0)]
        return [(s, sign, o) for s in range(SYMMETRIES) for sign in (1, -1) for o in range(len(ORDERS))]

    def apply(self, pieces: Pieces, member: int) -> Pieces:
        """Change pieces (..., S, S, 3), whose values are about mid-grey."""
        symmetry, sign, order = self.members[member]
        changed: Pieces = np.float32(sign) * turn(pieces, symmetry)[..., ORDERS[order]]
        return changed

    @cached_property
    def products(self) -> NDArray[np.int64]:
        """products[a, b]: the member that does b first, then a."""
        probe = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
        count = len(self.members)
        once = [self.apply(probe, member) for member in range(count)]
        codes = {changed.tobytes(): member for member, changed in enumerate(once)}
        table = [[codes[self.apply(changed, member).tobytes()] for changed in once] for member in range(count)]
        return np.array(table)

    @cached_property
    def inverses(self) -> NDArray[np.int64]:
        """The member that undoes each member."""
        inverses: NDArray[np.int64] = np.argmin(self.products, axis=1)
        return inverses

    @property
    def quarter(self) -> int:
        """The member that is a quarter turn and nothing else."""
        return self.members.index((1, 1, 0))

    def move(self, place: tuple[int, int], member: int) -> tuple[int, int]:
        """Where the change of a whole picture takes a place, given as row and column about the origin."""
        symmetry = self.members[member][0]
        row, column = place
        for _ in range(symmetry % 4):
            row, column = -column, row
        return row, -column if symmetry >= 4 else column
