"""Every image of a source, found without reading any pixel: a folder, Parquet shards, or a data set by name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imageveil.errors import UsageError
from imageveil.images.layout import read_tree, split_of
from imageveil.images.parquet import DAMAGE, RowNames, damage, open_shards, shard_labels
from imageveil.images.sources import NAMED, NamedSource, find_source, open_source


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a source.

    Attributes:
        key: identity inside the source: relative path, or path in the Parquet file.
        label: class index, or None.
        split: `train`, `test`, ... where the source is split, else "".
        size: bytes of its file; of a row, its share of the row group.
        time: when its file was last changed, in nanoseconds.
        file_of_rows: the Parquet file it is a row of, relative to the source, or "".
        group: its row group, or -1.
        row: its row in that group, or its number in a data set by name.
    """

    key: str
    label: int | None = None
    split: str = ""
    size: int = 0
    time: int = 0
    file_of_rows: str = ""
    group: int = -1
    row: int = 0


@dataclass(kw_only=True)
class Listing:
    """A source.

    Attributes:
        kind: `folder`, `parquet` or `named`.
        root: the folder everything is relative to; for a data set by name, its name.
        items: the images, in a fixed order.
        classes: class names by label, or None.
        labelled: whether the images have labels.
        other: what is not an image, with the reason why it was left out.
        unreadable: folders and row groups that could not be read, with the reason.
    """

    kind: str
    root: Path
    items: list[Item] = field(default_factory=list)
    classes: list[str] | None = None
    labelled: bool = False
    other: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def list_source(spec: str, *, split: str | None = None) -> Listing:
    """Find the images of a source.

    Args:
        spec: an image folder, a Parquet file, a folder of Parquet shards, or `cifar10`, `cifar100`, `stl10`.
        split: of a data set by name, `train` (the default) or `test`; elsewhere only that split, None for all.

    Raises:
        UsageError: nothing is there, or it holds no images.
    """
    if spec in NAMED and not Path(spec).exists():
        return _list_named(spec, split or "train")
    found, root = find_source(spec), Path(spec).resolve()
    listing = Listing(kind="folder", root=root, other=found.other, unreadable=found.unreadable)
    if found.shards:
        listing.kind, listing.root = "parquet", root.parent if root.is_file() else root
        shards = [root] if root.is_file() else [root / name for name in found.shards]
        listing.other.update({name.name: "a link; links are not followed" for name in shards if name.is_symlink()})
        shards = [shard for shard in shards if not shard.is_symlink()]
        if not shards:
            raise UsageError(f"{spec} holds links to Parquet files, and links are not followed; copy the files there")
        _list_parquet(listing, shards)
    else:
        _list_folder(listing, found.images)
    if split is not None:
        listing.items = [item for item in listing.items if item.split == split]
    if not listing.items:
        what = f"no images of the split {split!r}" if split else "no images: no file there ends like an image"
        if listing.unreadable:
            key, reason = next(iter(listing.unreadable.items()))
            what = f"no images that can be read; {key}: {reason}"
        raise UsageError(f"{spec} holds {what}")
    return listing


def _list_folder(listing: Listing, images: Mapping[str, os.stat_result]) -> None:
    """Add files, with labels from the tree: `class/file`, or `split/class/file`."""
    tree = read_tree(list(images))
    listing.labelled, listing.classes = tree.classes is not None, tree.classes
    for key, stat in images.items():
        listing.items.append(
            Item(
                key=key,
                label=tree.label(key),
                split=key.split("/")[0] if tree.split else "",
                size=stat.st_size,
                time=stat.st_mtime_ns,
            )
        )


def _list_parquet(listing: Listing, shards: list[Path]) -> None:
    """Add the rows of shards; a row group that cannot be read is left out, and the rest is taken."""
    splits = [split_of(shard.stem) for shard in shards]
    names = RowNames()
    for (shard, file), split in zip(open_shards(shards), splits, strict=True):
        listing.labelled, listing.classes = shard_labels(file)
        time = shard.stat().st_mtime_ns
        first = 0
        for group in range(file.num_row_groups):
            counted = file.metadata.row_group(group)
            try:
                table = file.read_row_group(group, columns=["image.path", *(["label"] if listing.labelled else [])])
                cells = table.column("image").to_pylist()
                labels = table.column("label").to_pylist() if listing.labelled else [None] * len(cells)
            except DAMAGE as error:
                reason = f"{damage(error)}; it holds {counted.num_rows} images"
                listing.unreadable[f"{shard.name}, row group {group}"] = reason
                cells, labels = [], []
            for row, (cell, label) in enumerate(zip(cells, labels, strict=True)):
                listing.items.append(
                    Item(
                        key=names.key((cell or {}).get("path"), shard, first + row),
                        label=label,
                        split=split if any(splits) else "",
                        size=counted.total_byte_size // max(len(cells), 1),
                        time=time,
                        file_of_rows=shard.name,
                        group=group,
                        row=row,
                    )
                )
            first += counted.num_rows


def _list_named(name: str, split: str) -> Listing:
    source = open_source(name, split)
    assert isinstance(source, NamedSource)
    items = [
        Item(key=f"{split}/{number:06d}", label=label, split=split, row=number)
        for number, label in enumerate(source.targets())
    ]
    return Listing(kind="named", root=Path(name), items=items, classes=source.classes, labelled=True)
