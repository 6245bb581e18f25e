"""Protected images as files of a folder: pixels only, complete or not there at all.

Everything is written under a temporary name, synced, and renamed. The bytes depend on the pixels and options alone.
"""

import ctypes
import io
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from imageveil.errors import RunError
from imageveil.images.png import LARGE, encode_png, png_pieces

TEMPORARY = ".imageveil-tmp"
PROCESS = secrets.token_hex(4)  # two machines that share a folder may share a process number
MANY = 8
"""Files from which one sync of the whole file system is faster than one for each."""
SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


def encode(pixels: np.ndarray, kind: str, *, quality: int = 95) -> bytes:
    """Encode an image without any metadata.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        kind: `png` or `webp` (both lossless), or `jpeg`.
        quality: of JPEG, 1 to 100.

    Raises:
        ValueError: the format cannot hold an image of this size.
    """
    if kind == "png":
        return encode_png(pixels)
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == "webp":
        image.save(out, "WEBP", lossless=True, quality=0, method=0, exact=True)
    else:
        image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def encode_for_disk(pixels: np.ndarray, kind: str, *, quality: int = 95) -> bytes | Iterator[bytes]:
    """The file of `encode`, of a large image in pieces, so that it need not lie in memory beside its pixels."""
    if kind == "png" and pixels.size >= LARGE:
        return png_pieces(pixels)
    return encode(pixels, kind, quality=quality)


def fits(height: int, width: int, kind: str) -> bool:
    """Whether a format can hold an image of this size."""
    largest = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}[kind]
    return max(height, width) <= largest


def temporary_name(number: int, tag: str) -> str:
    """A name for an unfinished file that no other file, process or machine uses."""
    return f".{number}.{os.getpid()}.{PROCESS}.{tag}{TEMPORARY}"


def write_files(files: Iterable[tuple[Path, bytes | Iterator[bytes]]], *, tag: str = "", private: bool = False) -> None:
    """Write a group of files; each appears complete or not at all, and all are on disk when this returns.

    Args:
        files: where and what, whole or in pieces.
        private: whether only their owner may read them, from the first byte on.
        tag: part of the temporary names, by which `remove_temporaries` tells the files of runs apart.

    Raises:
        RunError: the disk is full, read-only or otherwise does not take them.
    """
    # Names as text: making a path object takes longer than the system needs for a small file.
    written: list[tuple[str, str]] = []
    folders: set[str] = set()
    mode, disk, target = 0o600 if private else 0o666, -1, ""
    try:
        for path, blob in files:
            target = os.fspath(path)
            folder = os.path.dirname(target) or "."  # noqa: PTH120
            if folder not in folders:
                Path(folder).mkdir(parents=True, exist_ok=True)
                folders.add(folder)
                # Opened before anything is written: faults from then on are reported to this descriptor.
                disk = disk if disk >= 0 else os.open(folder, os.O_RDONLY)
            temporary = f"{folder}{os.sep}{temporary_name(len(written), tag)}"
            written.append((temporary, target))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for piece in (blob,) if isinstance(blob, bytes) else blob:
                    write_whole(file, piece)
        # One by one, each file waits for the disk to empty its own cache, which takes milliseconds.
        whole = len(written) >= MANY and len({os.stat(folder).st_dev for folder in folders}) == 1  # noqa: PTH116
        # Everything is on disk before the first name appears, and every name before the group counts as written.
        if not (whole and sync_disk(disk)):
            for temporary, _ in written:
                sync(temporary)
        for temporary, target in written:
            os.replace(temporary, target)  # noqa: PTH105
        if not (whole and sync_disk(disk)):
            for folder in folders:
                sync(folder)
    except OSError as error:
        for temporary, _ in written:
            remove(Path(temporary))
        raise cannot_write(Path(target), error) from error
    finally:
        if disk >= 0:
            os.close(disk)


def write_whole(file: IO[bytes], blob: bytes) -> None:
    """Write all of `blob` to an unbuffered file, which may take it in several pieces.

    Raises:
        OSError: the disk does not take it.
    """
    rest = memoryview(blob)
    while rest:
        rest = rest[file.write(rest) :]


def sync_disk(descriptor: int) -> bool:
    """Wait until all of the file system that holds an open file is on disk; False where that cannot be had.

    Raises:
        OSError: something could not be written.
    """
    # Linux before 5.8 does not tell of faults here.
    if not sys.platform.startswith("linux") or _linux_version() < (5, 8):
        return False
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return False
    if syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


@lru_cache
def _linux_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def sync(path: Path | str) -> None:
    """Wait until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The sentence for a disk that does not take a file."""
    return RunError(f"cannot write {path}: {error.strerror or error}; once that is mended the same command continues")


def remove_temporaries(root: Path, *, keep: Iterable[str] = ()) -> None:
    """Delete what killed runs left half-written below `root`.

    Args:
        root: a folder, which need not be there.
        keep: tags of runs that may be at work.
    """
    kept = tuple(f".{tag}{TEMPORARY}" for tag in keep)
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(TEMPORARY) and not name.endswith(kept):
                remove(Path(folder) / name)


def remove(path: Path) -> None:
    """Delete a file if it is there and can be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder is gone or read-only; the next run tries again
