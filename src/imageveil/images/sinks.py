"""Protected images as files of a folder: pixels only, complete or not there at all.

Everything is written under a temporary name, synced, and renamed. The bytes depend on the pixels and options alone.
"""

import io
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from imageveil.errors import RunError

TEMPORARY = ".imageveil-tmp"
PROCESS = secrets.token_hex(4)  # two machines that share a folder may share a process number
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
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == "png":
        # Protected images are close to noise: higher levels take longer and save about one percent.
        image.save(out, "PNG", compress_level=1)
    elif kind == "webp":
        image.save(out, "WEBP", lossless=True, quality=0, method=0, exact=True)
    else:
        image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def fits(height: int, width: int, kind: str) -> bool:
    """Whether a format can hold an image of this size."""
    largest = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}[kind]
    return max(height, width) <= largest


def temporary_name(number: int, tag: str) -> str:
    """A name for an unfinished file that no other file, process or machine uses."""
    return f".{number}.{os.getpid()}.{PROCESS}.{tag}{TEMPORARY}"


def write_files(files: Iterable[tuple[Path, bytes]], *, tag: str = "", private: bool = False) -> None:
    """Write a group of files; each appears complete or not at all, and all are on disk when this returns.

    Args:
        files: where and what.
        private: whether only their owner may read them, from the first byte on.
        tag: part of the temporary names, by which `remove_temporaries` finds what this run left behind.

    Raises:
        RunError: the disk is full, read-only or otherwise does not take them.
    """
    written: list[tuple[Path, Path]] = []
    folders: set[Path] = set()
    path = Path()
    try:
        for path, blob in files:
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            temporary = path.with_name(temporary_name(len(written), tag))
            written.append((temporary, path))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob)
        # Synced together after the last write: the first sync then carries most of the group to disk.
        for temporary, _ in written:
            sync(temporary)
        for temporary, path in written:
            temporary.replace(path)
        for folder in folders:
            sync(folder)
    except OSError as error:
        for temporary, _ in written:
            remove(temporary)
        raise cannot_write(path, error) from error


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The sentence for a disk that does not take a file."""
    return RunError(f"cannot write {path}: {error.strerror or error}; once that is mended the same command continues")


def remove_temporaries(root: Path, *, tag: str = "") -> None:
    """Delete what a killed run with this tag left half-written below `root`."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(f".{tag}{TEMPORARY}"):
                remove(Path(folder) / name)


def remove(path: Path) -> None:
    """Delete a file if it is there and can be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder is gone or read-only; the next run tries again
