"""How much of a jigsaw was put right: the figures D_c, N_c and L_c of the literature on puzzle attacks."""

import torch
from torch import Tensor

from imageveil.errors import UsageError


def puzzle_figures(plain: Tensor, shown: Tensor, block: int) -> dict[str, float]:
    """Compare reassembled images with the plain ones, piece by piece.

    Args:
        plain: uint8 (N, 3, H, W), sides multiples of `block`.
        shown: reassembled images, same shape.
        block: pixels on a piece's side.

    Returns:
        `puzzle_direct`, D_c: share of pieces at their place; `puzzle_neighbours`, N_c: share of neighbours that are
        neighbours in the plain image too; `puzzle_largest`, L_c: share of pieces in the largest region that is right
        in itself. Means over images.

    Raises:
        UsageError: the images do not consist of whole pieces.
    """
    if plain.shape != shown.shape or plain.shape[-2] % block or plain.shape[-1] % block:
        raise UsageError(f"images of {tuple(shown.shape)} cannot be judged in pieces of {block} pixels")
    figures = [_figures(_pieces(a, block), _pieces(b, block)) for a, b in zip(plain, shown, strict=True)]
    means = torch.tensor(figures, dtype=torch.float64).mean(dim=0).tolist()
    return dict(zip(("puzzle_direct", "puzzle_neighbours", "puzzle_largest"), means, strict=True))


def _pieces(image: Tensor, block: int) -> Tensor:
    """The pieces of an image (3, H, W) as (rows, columns, bytes)."""
    return image.unfold(1, block, block).unfold(2, block, block).permute(1, 2, 0, 3, 4).flatten(2).contiguous()


def _figures(plain: Tensor, shown: Tensor) -> tuple[float, float, float]:
    rows, columns = plain.shape[:2]
    # origin[r, c]: which plain place the piece shown there comes from, the same place if several look alike; else -1.
    equal = (shown.flatten(0, 1)[:, None] == plain.flatten(0, 1)[None]).all(dim=-1)
    places = torch.arange(rows * columns)
    origin = torch.where(equal.any(dim=1), equal.int().argmax(dim=1), -1)
    origin = torch.where(equal[places, places], places, origin).view(rows, columns)
    known = origin >= 0
    beside = (origin[:, 1:] == origin[:, :-1] + 1) & known[:, :-1] & (origin[:, :-1] % columns < columns - 1)
    below = (origin[1:] == origin[:-1] + columns) & known[:-1]
    neighbours = (beside.sum() + below.sum()) / (beside.numel() + below.numel())
    return (
        float((origin.flatten() == places).float().mean()),
        float(neighbours),
        _largest(beside, below) / places.numel(),
    )


def _largest(beside: Tensor, below: Tensor) -> int:
    """Pieces in the largest region joined by right neighbours."""
    rows, columns = beside.shape[0], below.shape[1]
    names = torch.arange(rows * columns).view(rows, columns)
    while True:
        before = names.clone()
        across = torch.minimum(names[:, 1:], names[:, :-1])
        names[:, 1:] = torch.where(beside, across, names[:, 1:])
        names[:, :-1] = torch.where(beside, torch.minimum(names[:, :-1], names[:, 1:]), names[:, :-1])
        down = torch.minimum(names[1:], names[:-1])
        names[1:] = torch.where(below, down, names[1:])
        names[:-1] = torch.where(below, torch.minimum(names[:-1], names[1:]), names[:-1])
        if torch.equal(names, before):
            return int(names.flatten().bincount().max())
