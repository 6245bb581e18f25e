"""Parquet files of images in the Hugging Face layout, as they are read: what they hold, and names for their rows."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imageveil.errors import UsageError
from imageveil.images.decode import TOO_LARGE

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged row group of a Parquet file raises."""


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a Parquet file that has the column `image` of the Hugging Face layout.

    Raises:
        UsageError: it is damaged, has no such column, or has labels that are not class numbers.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_shard(path, error) from error
    schema = file.schema_arrow
    kind = schema.field("image").type if "image" in schema.names else None
    fields = {field.name: str(field.type) for field in kind} if kind is not None and pa.types.is_struct(kind) else {}
    # A column of which every value is missing has the type null.
    binary, text = {"binary", "large_binary", "null"}, {"string", "large_string", "null"}
    if fields.get("bytes") not in binary or fields.get("path") not in text:
        raise UsageError(f"{path} has no column 'image' of {{bytes, path}}, the Hugging Face image layout")
    label = schema.field("label").type if "label" in schema.names else pa.null()
    if not (pa.types.is_null(label) or pa.types.is_integer(label)) or label == pa.uint64():
        raise UsageError(f"{path} has labels of the type {label}; make them class numbers of the type int64")
    return file


def open_shards(shards: Sequence[Path]) -> Iterator[tuple[Path, pq.ParquetFile]]:
    """Open the shards of a source one after another.

    Raises:
        UsageError: as `open_shard`, or a shard has other labels or classes than the first.
    """
    first = None
    for shard in shards:
        file = open_shard(shard)
        first = first or shard_labels(file)
        if shard_labels(file) != first:
            raise UsageError(f"{shard} has other labels or classes than {shards[0].name}; take them separately")
        yield shard, file


def shard_labels(file: pq.ParquetFile) -> tuple[bool, list[str] | None]:
    """Whether a shard has labels, and the names of their classes where it tells them."""
    labelled = "label" in file.schema_arrow.names
    return labelled, class_names(file.schema_arrow.metadata) if labelled else None


def damage(error: Exception) -> str:
    """Why a row group cannot be read, without any path: the reason stands in reports that are to hide names."""
    if isinstance(error, MemoryError):
        return TOO_LARGE
    number = getattr(error, "errno", None)
    return f"not readable: {os.strerror(number)}" if number else "the row group is damaged"


def unreadable_shard(path: Path, error: Exception) -> UsageError:
    """One sentence about a Parquet file that cannot be read."""
    return UsageError(f"{path} cannot be read as Parquet: {(str(error).splitlines() or [type(error).__name__])[0]}")


def class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Class names from the `huggingface` entry of a Parquet schema, if it has any that tell classes apart."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
        "".join(names).encode()  # every one is a text that can be written
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and len(set(names)) == len(names) else None


class RowNames:
    """Names the rows of a source's Parquet shards, each name once: a key per image must not serve two."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def key(self, path: str | None, shard: Path, row: int) -> str:
        """The row's path, or `shard/row` without one; with `shard-row-` before its name until no other row has it.

        Args:
            path: the row's own, or None.
            shard: the file it is in.
            row: its number there.
        """
        key = path or f"{shard.stem}/{row:07d}"
        while key in self.taken:
            folder, slash, name = key.rpartition("/")
            key = f"{folder}{slash}{shard.stem}-{row:07d}-{name}"
        self.taken.add(key)
        return key

    def take(self, shard: Path) -> None:
        """Name the rows of a shard that is not read itself.

        Raises:
            UsageError: as `open_shard`.
        """
        file, row = open_shard(shard), 0
        for group in range(file.num_row_groups):
            with suppress(*DAMAGE):  # nobody reads such rows, so they need no names
                for number, cell in enumerate(file.read_row_group(group, columns=["image.path"]).column("image")):
                    self.key((cell.as_py() or {}).get("path"), shard, row + number)
            row += file.metadata.row_group(group).num_rows
