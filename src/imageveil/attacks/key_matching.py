"""Solving for the keys of block schemes from known pairs, by assignment."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imageveil.attacks.assignment import Array, Order, assign, squared_distances
from imageveil.attacks.block_interiors import block_views
from imageveil.attacks.block_statistics import block_values, brightness_around, split_halves
from imageveil.schemes.blocks import PlaceMap, block_places, halves_of, place_map
from imageveil.schemes.compressible import scramble_blocks
from imageveil.schemes.pixelwise import ORDERS

Values = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the published algorithm does to the values of blocks.

    Attributes:
        blocks_move: whether blocks change places.
        inside: whether values keep their places in a block, move alike in all blocks, or in every block on their own.
        negates: whether values are negated.
        halves: whether the values are halves of bytes.
    """

    blocks_move: bool
    inside: str
    negates: bool
    halves: bool = False


LAYOUTS = {
    "tanaka": Layout(blocks_move=False, inside="shared", negates=True, halves=True),
    "extended": Layout(blocks_move=True, inside="own", negates=True, halves=True),
    "block-shuffle": Layout(blocks_move=False, inside="shared", negates=False),
    "block-negative": Layout(blocks_move=False, inside="kept", negates=True),
    "patch-permutation": Layout(blocks_move=True, inside="shared", negates=False),
    "block-permute": Layout(blocks_move=True, inside="kept", negates=False),
    "shuffle": Layout(blocks_move=True, inside="kept", negates=False),
}
"""The schemes that are one map of places for all images."""


def recover_places(plain: Tensor, protected: Tensor, block: int, layout: Layout) -> PlaceMap:
    """Find the map from pairs.

    Args:
        plain: plain images of whole blocks, uint8 (k, 3, H, W).
        protected: the same images protected, same shape.
        block: pixels on a block's side.
        layout: what the algorithm does.
    """
    height, width = plain.shape[-2:]
    here, there = (block_values(images, block) for images in (plain, protected))
    if layout.halves:
        here, there = split_halves(here), split_halves(there)
    top = 15 if layout.halves else 255
    blocks = match_blocks(here, there, layout, top) if layout.blocks_move else np.arange(here.shape[1])
    here = here[:, blocks]
    count, size = here.shape[1:]
    if layout.inside == "own":
        found = [match_places(here[:, b], there[:, b], top, negates=layout.negates) for b in range(count)]
        order, negated = np.stack([o for o, _ in found]), np.stack([n for _, n in found])
    elif layout.inside == "shared":
        order, negated = match_places(here.reshape(-1, size), there.reshape(-1, size), top, negates=layout.negates)
    else:
        order = np.arange(size)
        negated = np.zeros(size, dtype=np.bool_)
        if layout.negates:
            negated = distances(here, there, top) < distances(here, there, 0)
    places = block_places(height, width, block)
    targets = halves_of(places, places.size) if layout.halves else places
    sources = np.take_along_axis(targets[blocks], np.broadcast_to(order, targets.shape), axis=1)
    return place_map(targets, sources, negated, halves=layout.halves)


def distances(here: Values, there: Values, top: int) -> Array:
    """Absolute difference of every place's values, summed over pairs and blocks; the plain ones negated if `top`."""
    mine = here.astype(np.int64)
    total: Array = np.abs((top - mine if top else mine) - there).sum(axis=(0, 1)).astype(np.float64)
    return total


def match_blocks(here: Values, there: Values, layout: Layout, top: int) -> Order:
    """Find which plain block each protected block shows, by what the change inside blocks leaves alone.

    Args:
        here: values of plain blocks, (k, B, D).
        there: values of protected blocks, (k, B, D).
        layout: what the algorithm does.
        top: the largest value.

    Returns:
        int64 (B,): protected block b shows plain block order[b].
    """
    features = [values.astype(np.float32) for values in (here, there)]
    if layout.negates:
        features = [np.minimum(values, top - values) for values in features]
    if layout.inside != "kept":
        features = [np.sort(values, axis=-1) for values in features]
    plain, shown = (values.transpose(1, 0, 2).reshape(values.shape[1], -1) for values in features)
    return assign(squared_distances(shown, plain))


def match_places(here: Values, there: Values, top: int, *, negates: bool) -> tuple[Order, NDArray[np.bool_]]:
    """Find the places and signs inside a block.

    Args:
        here: plain values, (M, D).
        there: protected values of the same blocks, (M, D).
        top: the largest value.
        negates: whether values may be negated.

    Returns:
        Order int64 (D,) and signs bool (D,): there[:, j] is here[:, order[j]], negated where signs[j].
    """
    upright = squared_distances(there.T, here.T)
    if not negates:
        return assign(upright), np.zeros(len(upright), dtype=np.bool_)
    negative = squared_distances(there.T, top - here.T)
    order = assign(np.minimum(upright, negative))
    rows = np.arange(len(order))
    return order, negative[rows, order] < upright[rows, order]


def recover_scramble(plain: Tensor, protected: Tensor, block: int) -> PlaceMap:
    """Find the map of `compressible`: each protected block against each plain one, turned, negated and recoloured.

    Args: see `recover_places`.
    """
    height, width = plain.shape[-2:]
    here, there = (
        block_values(images, block).transpose(1, 0, 2).astype(np.float32) - 127.5 for images in (plain, protected)
    )
    count = len(here)
    # About mid-grey a negative is a change of sign, so half of the 96 hypotheses come for free.
    moved = block_views(block)
    products = np.empty((count, count, len(moved)), dtype=np.float32)
    for slot, order in enumerate(moved):
        products[:, :, slot] = there.reshape(count, -1) @ here[:, :, order].reshape(count, -1).T
    cost = np.square(there).sum(axis=(1, 2))[:, None] + np.square(here).sum(axis=(1, 2))[None]
    blocks = assign(cost - 2 * np.abs(products).max(axis=-1))
    likeness = products[np.arange(count), blocks]
    best = np.abs(likeness).argmax(axis=-1)
    negative = likeness[np.arange(count), best] < 0
    return scramble_blocks(height, width, block, blocks, best // len(ORDERS), negative, best % len(ORDERS))


def recover_table(plain: Tensor, protected: Tensor, block: int, others: Tensor) -> tuple[NDArray[np.bool_], Values]:
    """Find the places and the table of `block-ffx`.

    Bytes that no pair shows are told apart by their surroundings: the brighter the bytes of a block that stayed as they
    are, the brighter, on average, the one that was replaced.

    Args:
        plain: plain images of whole blocks, uint8 (k, 3, H, W).
        protected: the same images protected, same shape.
        block: pixels on a block's side.
        others: further protected images, uint8 (N, 3, H, W).

    Returns:
        Where bytes are replaced, bool (3 block^2,); and for each protected byte the plain one, uint8 (256,).
    """
    here, there, rest = (block_values(images, block).reshape(-1, 3 * block**2) for images in (plain, protected, others))
    chosen: NDArray[np.bool_] = (here != there).any(axis=0)
    inverse = np.full(256, -1)
    inverse[there[:, chosen]] = here[:, chosen]
    missing = np.flatnonzero(inverse < 0)
    brightness = brightness_around(rest, chosen)
    unused = np.setdiff1d(np.arange(256), inverse)
    inverse[missing[np.argsort(brightness[missing], kind="stable")]] = unused
    return chosen, inverse.astype(np.uint8)
