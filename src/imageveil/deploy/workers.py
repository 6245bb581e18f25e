"""What worker processes do: read and decode images, encode and write protected ones. Nothing here imports torch.

Decoded pixels travel between processes through pipes; they never touch a disk.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from imageveil.deploy.listing import Item
from imageveil.errors import RunError
from imageveil.images.decode import TOO_LARGE, ImageError, decode_open, open_image
from imageveil.images.pixels import to_pixels
from imageveil.images.sinks import encode, encode_for_disk, fits, write_files

PART_PIXELS = 16_000_000  # about 50 MB of pixels: what one message between processes holds at most
SMALL_FILE = 2**20  # bytes
T = TypeVar("T")


@dataclass(kw_only=True)
class Group:
    """Images of one size.

    Attributes:
        places: their places in the unit.
        pixels: uint8 (N, H, W, 3).
    """

    places: list[int]
    pixels: np.ndarray


@dataclass(kw_only=True)
class Part:
    """The decoded images `start` to `stop` of a unit.

    Attributes:
        groups: the images by size, sizes in the order they were met.
        skipped: reasons by place.
        notes: what was left out of an image, by place.
        large: whether this is one image too large to be sent; it is decoded where it is protected.
    """

    start: int
    stop: int
    groups: list[Group] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    large: bool = False


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where workers read: `Listing.kind` and `Listing.root`."""

    kind: str
    root: Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """How and where workers write.

    Attributes:
        folder: the destination, or None to hand the encoded images back.
        kind: image format.
        quality: of JPEG.
        tag: see `write_files`.
    """

    folder: Path | None
    kind: str
    quality: int
    tag: str


def decode_part(origin: Origin, items: Sequence[Item], start: int, *, send_large: bool = False) -> Part:
    """Decode the images of a unit from `start` on, until about `PART_PIXELS` are held.

    Args:
        origin: the source.
        items: the unit.
        start: first image.
        send_large: decode even a single image above `PART_PIXELS`; otherwise it makes a part without pixels.

    Raises:
        RunError: the source is gone.
    """
    part = Part(start=start, stop=start)
    by_size: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    held = 0
    for place in range(start, len(items)):
        try:
            name = items[place].key if origin.kind == "folder" else ""
            with open_item(origin, items[place]) as file, open_image(file, name=name) as image:
                size = image.width * image.height
                if held and held + size > PART_PIXELS:
                    break
                if size > PART_PIXELS and not send_large:
                    if place > start:
                        break
                    part.large, part.stop = True, place + 1
                    return part
                decoded = decode_open(image)
            pixels = to_pixels(decoded.image)
        except ImageError as error:
            part.skipped[place] = str(error)
        except MemoryError:
            part.skipped[place] = TOO_LARGE
        except OSError as error:
            part.skipped[place] = f"not readable: {error.strerror}"
        else:
            places, arrays = by_size.setdefault(pixels.shape, ([], []))
            places.append(place)
            arrays.append(pixels)
            held += size
            if decoded.notes:
                part.notes[place] = decoded.notes
            del decoded, pixels
        part.stop = place + 1
        if held >= PART_PIXELS:
            break
    for places, arrays in by_size.values():
        # A view, not a copy, of a single image: it may be the large one.
        stacked = np.stack(arrays) if len(arrays) > 1 else arrays[0][None]
        part.groups.append(Group(places=places, pixels=stacked))
    return part


@contextmanager
def open_item(origin: Origin, item: Item) -> Iterator[IO[bytes]]:
    """Open the file or cell of an image.

    Raises:
        ImageError: it cannot be read.
        RunError: the whole source is gone.
    """
    if origin.kind == "named":
        yield _named_image(origin.root.name, item)
    elif origin.kind == "parquet":
        cells = _row_group(origin.root / item.file_of_rows, item.group, item.time)
        if isinstance(cells, ImageError):
            raise cells
        cell = cells[item.row].as_py() or {}
        if cell.get("bytes") is None and cell.get("path"):
            raise ImageError("the row refers to a file and holds no image")
        yield io.BytesIO(cell.get("bytes") or b"")
    else:
        try:
            # A file that has become a link or a pipe since it was listed is not opened.
            descriptor = os.open(origin.root / item.key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            _check_root(origin.root)
            gone = isinstance(error, FileNotFoundError)
            raise ImageError("vanished after it was listed" if gone else f"not readable: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            # A small file is read at once: Pillow asks for it in many small pieces.
            yield io.BytesIO(file.read()) if item.size < SMALL_FILE else file


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise RunError(f"the source {root} has vanished; bring it back and the same command continues")


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int, time: int) -> Any:
    """The images of a row group, or the `ImageError` of all of them; kept, since its rows are asked for one by one.

    Raises:
        RunError: the file is another one than when it was listed at `time`, or the whole source is gone.
    """
    import pyarrow.parquet as pq

    from imageveil.images.parquet import DAMAGE, damage

    try:
        if path.stat().st_mtime_ns != time:
            raise RunError(f"{path} has changed since the run began; start it again")
        return pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image")
    except DAMAGE as error:
        _check_root(path.parent)
        return ImageError(damage(error))


@lru_cache(maxsize=1)
def _named_data(name: str, split: str) -> Any:
    from imageveil.images.sources import NamedSource, open_source

    source = open_source(name, split)
    assert isinstance(source, NamedSource)
    return source.data


def forget_sources() -> None:
    """Forget what was read for an earlier run: it may have changed since."""
    _row_group.cache_clear()
    _named_data.cache_clear()


def _named_image(name: str, item: Item) -> IO[bytes]:
    out = io.BytesIO()
    _named_data(name, item.split)[item.row][0].save(out, "BMP")  # in memory: the form in which every image arrives
    out.seek(0)
    return out


def write_part(
    target: Target, groups: Sequence[Group], names: Sequence[str]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """Encode protected images and write them, or hand them back.

    Args:
        target: how and where.
        groups: protected images; `places` index `names`.
        names: names of the whole unit in the destination.

    Returns:
        Encoded images by place (none when files were written), and images that format, memory or Parquet cannot hold,
        with the reason.

    Raises:
        RunError: the disk does not take them.
    """
    kind, quality, folder = target.kind, target.quality, target.folder
    refused: dict[int, str] = {}

    def encoded(how: Callable[..., T]) -> Iterator[tuple[int, T]]:
        for group in groups:
            for place, pixels in zip(group.places, group.pixels, strict=True):
                if not fits(pixels.shape[0], pixels.shape[1], kind):
                    refused[place] = f"too large for {kind}; use --format png"
                elif folder is None and not _is_unicode(names[place]):
                    refused[place] = "its name is not UTF-8, as names in Parquet are; use --names hash, or rename it"
                else:
                    try:
                        yield place, how(pixels, kind, quality=quality)
                    except MemoryError:
                        refused[place] = TOO_LARGE

    if folder is None:
        return dict(encoded(encode)), refused
    write_files(((folder / names[place], blob) for place, blob in encoded(encode_for_disk)), tag=target.tag)
    return {}, refused


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_large(origin: Origin, items: Sequence[Item], place: int) -> Part:
    """Decode the one image at `place`, however large."""
    return decode_part(origin, items[: place + 1], place, send_large=True)
