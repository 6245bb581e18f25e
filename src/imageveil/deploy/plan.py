"""What a run does: the units of work, and what they are told apart by.

A unit is a fixed list of images that is protected in the same order and the same batches whenever and wherever it
runs, so that an interrupted run gives the same bytes as an uninterrupted one.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from imageveil.deploy.listing import Item

Named = tuple[Item, str]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of work.

    Attributes:
        items: the images.
        outputs: their paths in the destination, or the column `path` of a shard.
        shown: what messages and the report call them: by their source, unless names are replaced.
        files: what the unit writes, relative to the destination, with the identity of the image; a shard has none.
        digest: changes when an image of the unit changes, comes, goes or gets another name.
        shard: name of the Parquet shard to write, or "" when the images become files.
    """

    items: tuple[Item, ...]
    outputs: tuple[str, ...]
    shown: tuple[str, ...]
    files: dict[str, str]
    digest: str
    shard: str = ""

    def written(self, skipped: Container[str]) -> list[str]:
        """Those of `files` that are there once the unit is done, where images that are shown as `skipped` were not."""
        if self.shard:
            return [self.shard]
        return [output for output, shown in zip(self.outputs, self.shown, strict=True) if shown not in skipped]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """When a unit is full: number of images and bytes of their files."""

    images: int
    bytes: int


FILES = Sizes(images=1024, bytes=32 * 2**20)
SHARDS = Sizes(images=2048, bytes=256 * 2**20)


def unit_sizes(items: Sequence[Item], *, parquet: bool, shards: int) -> Sizes:
    """When units are full by default: smaller ones where each of several shares would get few.

    Powers of two, so that a source may grow without being cut elsewhere.
    """
    whole = SHARDS if parquet else FILES
    if shards == 1:
        return whole
    images, size = (total // (8 * shards) for total in (len(items), sum(item.size for item in items)))
    return Sizes(images=min(whole.images, _power_of_two(images)), bytes=min(whole.bytes, _power_of_two(size)))


def _power_of_two(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1


def in_hidden_order(named: Iterable[Named]) -> list[Named]:
    """Sort images by their hidden names, so that neither times nor places on the disk tell the order of the source.

    Rows of one row group stay together, and row groups of one Parquet file: they are read at once.
    """
    named = sorted(named, key=lambda pair: pair[1])
    files: dict[str, str] = {}
    groups: dict[tuple[str, int], str] = {}
    for item, output in named:
        files.setdefault(item.file_of_rows, output)
        groups.setdefault((item.file_of_rows, item.group), output)
    return sorted(
        named,
        key=lambda pair: (
            pair[0].split,
            files[pair[0].file_of_rows],
            groups[pair[0].file_of_rows, pair[0].group],
            pair[1],
        ),
    )


def build_units(
    named: Sequence[Named], *, parquet: bool, sizes: Sizes, show_source: bool = True, key: bytes = b""
) -> list[Unit]:
    """Cut the source into units, in its order.

    Args:
        named: the images with their names in the destination.
        parquet: whether a unit becomes a Parquet shard.
        sizes: when a unit is full.
        show_source: whether messages may name the source's images.
        key: secret of digests and identities, without which they would confirm a guess of hidden names.
    """
    parts: list[Sequence[Named]] = []
    start, held, chosen = 0, 0, False
    for stop, (item, output) in enumerate(named, 1):
        held += item.size
        # Shards are full; their source may not change. Files may come and go without moving the ends of other units.
        chosen = chosen or (not parquet and _ends_unit(output, item.size, sizes))
        full = stop - start >= sizes.images or held >= sizes.bytes
        following = named[stop][0] if stop < len(named) else None
        # Rows of one row group stay together: every unit that needs a row has to read its whole group.
        ends = item.group < 0 or following is None or following.group != item.group
        apart = following is None or (following.split, following.file_of_rows) != (item.split, item.file_of_rows)
        if apart or (ends and (full or chosen)):
            parts.append(named[start:stop])
            start, held, chosen = stop, 0, False
    units = [_unit(part, show_source=show_source, key=key) for part in parts]
    if parquet:
        splits = [unit.items[0].split or "train" for unit in units]
        for number, split in enumerate(splits):
            shard = f"{split}-{splits[:number].count(split):05d}-of-{splits.count(split):05d}.parquet"
            units[number] = replace(units[number], shard=shard, files={shard: ""})
    return [replace(unit, digest=_digest(unit, key)) for unit in units]


def _ends_unit(output: str, size: int, sizes: Sizes) -> bool:
    """Whether a unit ends with this image, whatever lies beside it: a draw by its name. Few units get full."""
    draw = int.from_bytes(hashlib.sha256(os.fsencode(output)).digest()[:8]) / 2**64
    return draw < 3 / sizes.images + 3 * size / sizes.bytes


def _unit(part: Sequence[Named], *, show_source: bool, key: bytes) -> Unit:
    items, outputs = zip(*part, strict=True)
    return Unit(
        items=items,
        outputs=outputs,
        shown=tuple(item.key for item in items) if show_source else outputs,
        files={output: hmac.digest(key, os.fsencode(item.key), "sha256").hex()[:16] for item, output in part},
        digest="",
    )


def plan_digest(named: Iterable[Named], key: bytes = b"") -> str:
    """HMAC-SHA-256 over the names and sizes of all images, in order."""
    sha = hmac.new(key, digestmod=hashlib.sha256)
    for item, _ in named:
        sha.update(json.dumps([item.key, item.row, item.size]).encode())
    return sha.hexdigest()


def _digest(unit: Unit, key: bytes) -> str:
    items = [[i.key, i.row, i.size, i.time] for i in unit.items]
    return hmac.new(key, json.dumps([items, list(unit.files)]).encode(), hashlib.sha256).hexdigest()
