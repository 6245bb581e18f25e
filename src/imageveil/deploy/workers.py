"""What worker processes do: read and decode images, encode and write protected ones. Nothing here imports torch.

Decoded pixels travel between processes through pipes; they never touch a disk.
"""

import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ParamSpec, TypeVar

import numpy as np

from imageveil.deploy.listing import Item
from imageveil.errors import RunError
from imageveil.images.decode import ImageError, decode_open, open_image
from imageveil.images.pixels import to_pixels
from imageveil.images.sinks import encode, encode_for_disk, fits, write_files

PART_PIXELS = 16_000_000  # about 50 MB of pixels: what one message between processes holds at most
SMALL_FILE = 2**20  # bytes
P = ParamSpec("P")
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
        except ImageError as error:
            part.skipped[place] = str(error)
        else:
            pixels = to_pixels(decoded.image)
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
        cell = _row_group(origin.root / item.file_of_rows, item.group)[item.row].as_py() or {}
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
def _row_group(path: Path, group: int) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image")
    except (pa.ArrowException, OSError) as error:
        _check_root(path.parent)
        raise RunError(f"{path} cannot be read any more: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=1)
def _named_data(name: str, split: str) -> Any:
    from imageveil.images.sources import NamedSource, open_source

    source = open_source(name, split)
    assert isinstance(source, NamedSource)
    return source.data


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
        Encoded images by place (none when files were written), and images that the format cannot hold, with the
        reason.

    Raises:
        RunError: the disk does not take them.
    """
    refused: dict[int, str] = {}

    def holdable() -> Iterator[tuple[int, np.ndarray]]:
        for group in groups:
            for place, pixels in zip(group.places, group.pixels, strict=True):
                if fits(pixels.shape[0], pixels.shape[1], target.kind):
                    yield place, pixels
                else:
                    refused[place] = f"too large for {target.kind}; use --format png"

    kind, quality, folder = target.kind, target.quality, target.folder
    if folder is None:
        return {place: encode(pixels, kind, quality=quality) for place, pixels in holdable()}, refused
    files = ((folder / names[place], encode_for_disk(pixels, kind, quality=quality)) for place, pixels in holdable())
    write_files(files, tag=target.tag)
    return {}, refused


class InProcess(Executor):
    """An executor without processes, for few images and for tests."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run the call now."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerPool(ProcessPoolExecutor):
    """Worker processes that do not import the program they belong to.

    A program that imports torch would make each of them seconds slower to start and half a gigabyte larger.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Hand a call to a worker, which may be started for it."""
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            sys.modules["__main__"] = program


def open_pool(workers: int) -> Executor:
    """Start worker processes; none for 0."""
    if workers == 0:
        return InProcess()
    # Forked from a small server process: forking this one, with torch's threads in it, can hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imageveil.deploy.workers"])
    return WorkerPool(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """End with the main process: after a kill it cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def read_large(origin: Origin, items: Sequence[Item], place: int) -> Part:
    """Decode the one image at `place`, however large."""
    return decode_part(origin, items[: place + 1], place, send_large=True)


__all__ = ["Group", "InProcess", "Origin", "Part", "Target", "decode_part", "open_pool", "write_part"]
