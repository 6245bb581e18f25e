"""What a run does: every image of the source, its name in the destination, and the units of work.

A unit is a fixed list of images that is protected in the same order and the same batches whenever and wherever it
runs, so that an interrupted run gives the same bytes as an uninterrupted one.
"""

import csv
import hashlib
import hmac
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from imageveil.deploy.journal import begun_with_key
from imageveil.deploy.listing import Item, Listing
from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import SUFFIX, remove, write_files

NAMES = ("keep", "hash", "index")
LONGEST_NAME = 200
MAPPING = ("protected", "source", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of work.

    Attributes:
        items: the images.
        outputs: their paths in the destination, or the column `path` of a shard.
        shown: what messages and the report call them: by their source, unless names are replaced.
        digest: changes when an image of the unit changes, comes, goes or gets another name.
        shard: name of the Parquet shard to write, or "" when the images become files.
    """

    items: tuple[Item, ...]
    outputs: tuple[str, ...]
    shown: tuple[str, ...]
    digest: str
    shard: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """What the unit writes, relative to the destination."""
        return (self.shard,) if self.shard else self.outputs


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """When a unit is full: number of images and bytes of their files."""

    images: int
    bytes: int


FILES = Sizes(images=1024, bytes=32 * 2**20)
SHARDS = Sizes(images=2048, bytes=256 * 2**20)


def build_units(
    listing: Listing,
    outputs: Sequence[str],
    *,
    parquet: bool,
    show_source: bool = True,
    sizes: Sizes | None = None,
    key: bytes = b"",
) -> list[Unit]:
    """Cut the source into units, in its order.

    Args:
        listing: the source.
        outputs: one name an image, from `output_names`.
        parquet: whether a unit becomes a Parquet shard.
        show_source: whether messages may name the source's images.
        sizes: when a unit is full; None for the default of the kind.
        key: secret of the digests, without which they would confirm a guess of hidden names.
    """
    sizes = sizes or (SHARDS if parquet else FILES)
    units: list[Unit] = []
    splits: list[str] = []
    start, held = 0, 0
    items = listing.items
    for stop, item in enumerate(items, 1):
        held += item.size
        last = stop == len(items)
        # Rows of one row group stay together: every unit that needs a row has to read its whole group.
        ends = last or (items[stop].group != item.group or item.group < 0)
        full = stop - start >= sizes.images or held >= sizes.bytes
        if last or (ends and full) or items[stop].split != item.split or items[stop].file_of_rows != item.file_of_rows:
            chosen = tuple(items[start:stop])
            named = tuple(outputs[start:stop])
            shown = tuple(item.key for item in chosen) if show_source else named
            units.append(Unit(items=chosen, outputs=named, shown=shown, digest=""))
            splits.append(item.split or "train")
            start, held = stop, 0
    if parquet:
        for number, split in enumerate(splits):
            place, count = splits[:number].count(split), splits.count(split)
            units[number] = replace(units[number], shard=f"{split}-{place:05d}-of-{count:05d}.parquet")
    return [replace(unit, digest=_digest(unit, key)) for unit in units]


def output_names(listing: Listing, names: str, *, suffix: str, key: bytes = b"") -> list[str]:
    """Name every image in the destination, each name once, also where case is not told apart.

    Args:
        listing: the source.
        names: `keep` the path, `hash` (keyed), or `index` (position in the source); folders that are classes stay.
        suffix: ending of the new names.
        key: secret of `hash`.
    """
    plain = [_kept(item, listing) for item in listing.items]
    if names == "keep":
        stems = [_without_suffix(name) for name in plain]
        shared = _repeated(stem.casefold() for stem in stems)
        # a.jpg and a.png side by side become a.jpg.png and a.png.png.
        stems = [name if stem.casefold() in shared else stem for name, stem in zip(plain, stems, strict=True)]
        again = _repeated(stem.casefold() for stem in stems)
        stems = [f"{stem}~{n}" if stem.casefold() in again else stem for n, stem in enumerate(stems)]
        return [_shortened(stem) + suffix for stem in stems]
    out = []
    for number, item in enumerate(listing.items):
        if names == "hash":
            name = hmac.new(
                key, os.fsencode(f"{item.file_of_rows}\0{item.key}\0{item.row}"), hashlib.sha256
            ).hexdigest()
            name = name[:32]
        else:
            name = f"{number:07d}"
        folder = "/".join(part for part in (item.split, _class_folder(item, listing)) if part)
        out.append(f"{folder}/{name}{suffix}" if folder else f"{name}{suffix}")
    return out


def name_suffix(kind: str) -> str:
    """Ending of an image format's file names."""
    return SUFFIX[kind]


def plan_digest(units: Iterable[Unit], key: bytes = b"") -> str:
    """HMAC-SHA-256 over the names and sizes of all images, in order."""
    sha = hmac.new(key, digestmod=hashlib.sha256)
    for unit in units:
        for item in unit.items:
            sha.update(json.dumps([item.key, item.row, item.size]).encode())
    return sha.hexdigest()


def private_folder(destination: Path) -> Path:
    """The folder beside the destination for what its owner keeps: the mapping of names and the key of `hash`."""
    return destination.with_name(destination.name + ".private")


def names_key(destination: Path, *, overwrite: bool = False) -> bytes:
    """Read the key of hidden names, or draw a new one and keep it, readable by its owner only.

    Args:
        destination: the folder of protected images; the key lies beside it.
        overwrite: draw a new one also where images with names by another one are.

    Raises:
        RunError: it cannot be read or written.
        UsageError: the file is no key, or it is gone and images with names by it are there.
    """
    path = private_folder(destination) / "names.key"
    if not path.exists() and not overwrite and begun_with_key(destination):
        raise UsageError(
            f"{destination} was begun, and the key of its names {path} is gone; put it back, or use --overwrite or "
            "another destination"
        )
    try:
        if not path.exists():
            new = path.with_name(f"names.{secrets.token_hex(8)}.new")
            _write_private(new, secrets.token_bytes(32).hex().encode() + b"\n")
            with suppress(FileExistsError):  # another shard was faster: its key counts
                path.hardlink_to(new)
            new.unlink()
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    except OSError as error:
        raise RunError(f"cannot use the key of the names {path}: {error.strerror}") from error
    if len(key) != 32:
        raise UsageError(f"{path} is not a key of 64 hexadecimal digits; restore it from a copy")
    return key


def write_mapping(
    destination: Path, units: Iterable[Unit], *, tag: str, sizes: Mapping[str, Sequence[int]] | None = None
) -> Path:
    """Write `names.csv`, which tells the owner which image became which; readable by its owner only.

    Protected images that are still there keep their rows when their source is gone.

    Args:
        destination: the folder of protected images; the table lies beside it.
        units: what this shard protects.
        tag: which shard this is.
        sizes: true width and height of padded images by name in the destination, for the way back.
    """
    sizes = sizes or {}
    path = private_folder(destination) / ("names.csv" if tag == "1-of-1" else f"names-{tag}.csv")
    rows: dict[str, list[Any]] = {}
    for unit in units:
        for output, item in zip(unit.outputs, unit.items, strict=True):
            width, height = sizes.get(output, ("", ""))
            rows[output] = [output, item.key, height, width]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(MAPPING)
    for row in _rows(path):
        if row[0] not in rows and (destination / row[0]).is_file():
            rows[row[0]] = row
    table.writerows(rows.values())
    _write_private(path, text.getvalue().encode(errors="surrogateescape"))
    return path


def remove_other_mappings(destination: Path, *, tag: str) -> None:
    """Delete the tables of runs with another number of shards."""
    for path in private_folder(destination).glob("names*.csv"):
        number = path.stem.rpartition("-of-")[2] if path.stem != "names" else "1"
        if number != tag.rpartition("-of-")[2]:
            remove(path)


def _rows(path: Path) -> list[list[str]]:
    """The rows of a table of names, without its head; empty where there is none or it is no such table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row for row in list(csv.reader(file))[1:] if len(row) == len(MAPPING)]


def _write_private(path: Path, blob: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    write_files([(path, blob)], private=True)


def _kept(item: Item, listing: Listing) -> str:
    """The path of an image below the destination, as the source has it."""
    if not item.file_of_rows:
        return item.key
    parts = inner_parts(item.key)
    folder = [part for part in (item.split, _class_folder(item, listing)) if part]
    return "/".join([*folder, *(parts[-1:] if folder else parts)]) or f"{item.row:07d}"


def inner_parts(path: str) -> list[str]:
    """The parts of a path that somebody else wrote, such as one inside a Parquet file, without any that lead out."""
    return [part for part in PurePosixPath(path.replace("\0", "_")).parts if part not in ("/", "//", "..", ".")]


def _class_folder(item: Item, listing: Listing) -> str:
    if listing.classes is None or item.label is None or not 0 <= item.label < len(listing.classes):
        return "" if item.label is None else f"{item.label}"
    name = listing.classes[item.label].replace("/", "_").replace("\0", "_")
    return "_" if name in ("", ".", "..") else name


def _without_suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if suffix.isalnum() and stem and stem[-1] not in "/.":
        return stem  # nearly every name; a path object takes longer than the rest of the plan
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


def _shortened(stem: str) -> str:
    """The path with a last part that leaves room for an ending."""
    if len(os.fsencode(stem)) <= LONGEST_NAME:
        return stem
    path = PurePosixPath(stem)
    raw = os.fsencode(path.name)
    if len(raw) <= LONGEST_NAME:
        return stem
    short = os.fsdecode(raw[: LONGEST_NAME - 17]) + "-" + hashlib.sha256(raw).hexdigest()[:16]
    return str(path.with_name(short))


def _repeated(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for name in names:
        (twice if name in seen else seen).add(name)
    return twice


def _digest(unit: Unit, key: bytes) -> str:
    items = [[i.key, i.row, i.size, i.time] for i in unit.items]
    return hmac.new(key, json.dumps([items, unit.files]).encode(), hashlib.sha256).hexdigest()
