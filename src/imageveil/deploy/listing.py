"""Every image of a source, found without reading any pixel: a folder, Parquet shards, or a data set by name."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from imageveil.errors import UsageError
from imageveil.images.decode import image_suffixes
from imageveil.images.layout import read_tree, split_of
from imageveil.images.sources import (
    NAMED,
    NamedSource,
    RowNames,
    class_names,
    open_shard,
    open_source,
    unreadable_shard,
)


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
        unreadable: folders that could not be read, with the reason.
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
    path = Path(spec)
    if spec in NAMED and not path.exists():
        return _list_named(spec, split or "train")
    if not path.exists():
        raise UsageError(f"{spec} does not exist; give an image folder, Parquet, or one of: {', '.join(NAMED)}")
    root = path.resolve()
    if root.is_file():
        if root.suffix != ".parquet":
            raise UsageError(f"{spec} is a file but not Parquet; give the folder that holds the images")
        listing = _list_parquet(root.parent, [root])
    elif shards := sorted(root.glob("*.parquet")):
        links = {shard.name: "a link; links are not followed" for shard in shards if shard.is_symlink()}
        if len(links) == len(shards):
            raise UsageError(f"{spec} holds links to Parquet files, and links are not followed; copy the files there")
        listing = _list_parquet(root, [shard for shard in shards if shard.name not in links])
        listing.other.update(links)
    else:
        listing = _list_folder(root)
    if split is not None:
        listing.items = [item for item in listing.items if item.split == split]
    if not listing.items:
        what = f"no images of the split {split!r}" if split else "no images: no file there ends like an image"
        raise UsageError(f"{spec} holds {what}")
    return listing


def _list_folder(root: Path) -> Listing:
    listing = Listing(kind="folder", root=root)
    found: list[tuple[str, os.stat_result]] = []
    suffixes = image_suffixes()

    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            listing.unreadable[folder or "."] = f"not readable: {error.strerror}"
            continue
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                listing.other[key] = "a link; links are not followed"
            elif entry.name.startswith("."):
                listing.other[key] = "hidden"
            elif entry.is_dir(follow_symlinks=False):
                folders.append(key)
            elif not entry.is_file(follow_symlinks=False):
                listing.other[key] = "not an ordinary file"
            elif os.path.splitext(entry.name)[1].lower() not in suffixes:  # noqa: PTH122 - a Path a file is slow
                listing.other[key] = "not named like an image"
            else:
                found.append((key, entry.stat(follow_symlinks=False)))
    found.sort(key=lambda pair: pair[0])
    _label(listing, found)
    return listing


def _label(listing: Listing, found: list[tuple[str, os.stat_result]]) -> None:
    """Labels from the tree: `class/file`, or `split/class/file`."""
    tree = read_tree([key for key, _ in found])
    listing.labelled, listing.classes = tree.classes is not None, tree.classes
    places = {name: label for label, name in enumerate(tree.classes or [])}
    depth = 1 if tree.split else 0
    for key, stat in found:
        parts = key.split("/")
        listing.items.append(
            Item(
                key=key,
                label=places[parts[depth]] if listing.labelled else None,
                split=parts[0] if tree.split else "",
                size=stat.st_size,
                time=stat.st_mtime_ns,
            )
        )


def _list_parquet(root: Path, shards: list[Path]) -> Listing:
    import pyarrow as pa

    listing = Listing(kind="parquet", root=root)
    splits = [split_of(shard.stem) for shard in shards]
    names = RowNames()
    for shard, split in zip(shards, splits, strict=True):
        try:
            file = open_shard(shard)
            schema = file.schema_arrow
            labelled = "label" in schema.names
            classes = class_names(schema.metadata) if labelled else None
            if shard == shards[0]:
                listing.labelled, listing.classes = labelled, classes
            elif (labelled, classes) != (listing.labelled, listing.classes):
                raise UsageError(f"{shard} has other labels or classes than {shards[0].name}; protect them separately")
            stat = shard.stat()
            first = 0
            for group in range(file.num_row_groups):
                columns = ["image.path", *(["label"] if labelled else [])]
                table = file.read_row_group(group, columns=columns)
                cells = table.column("image").to_pylist()
                labels = table.column("label").to_pylist() if labelled else [None] * len(cells)
                share = file.metadata.row_group(group).total_byte_size // max(len(cells), 1)
                for row, (cell, label) in enumerate(zip(cells, labels, strict=True)):
                    listing.items.append(
                        Item(
                            key=names.key((cell or {}).get("path"), shard, first + row),
                            label=label,
                            split=split if any(splits) else "",
                            size=share,
                            time=stat.st_mtime_ns,
                            file_of_rows=shard.name,
                            group=group,
                            row=row,
                        )
                    )
                first += len(cells)
        except (pa.ArrowException, OSError) as error:
            raise unreadable_shard(shard, error) from error
    return listing


def _list_named(name: str, split: str) -> Listing:
    source = open_source(name, split)
    assert isinstance(source, NamedSource)
    items = [
        Item(key=f"{split}/{number:06d}", label=label, split=split, row=number)
        for number, label in enumerate(source.targets())
    ]
    return Listing(kind="named", root=Path(name), items=items, classes=source.classes, labelled=True)
