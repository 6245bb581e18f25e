"""How images are laid out: `class/file`, `split/class/file` or without labels in a folder; Parquet shards of splits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from imageveil.images.decode import image_suffixes

UNLABELLED = "unlabeled"
SPLITS = ("train", "test", "validation", "val", UNLABELLED)


LINK = "a link; links are not followed"
"""Why a link is left out."""


def split_of(stem: str) -> str:
    """The split that the name of a Parquet shard begins with, as Hugging Face names shards; "" where it has none."""
    first = stem.split("-")[0]
    return first if first in SPLITS else ""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """How a folder is laid out.

    Attributes:
        split: whether its topmost folders are splits.
        classes: names of the folders below, where all images but those of the split `unlabeled` lie in one, else None.
        stray: the first image that lies in none, or None.
    """

    split: bool
    classes: list[str] | None
    stray: str | None

    @cached_property
    def places(self) -> dict[str, int]:
        """The classes' numbers by name."""
        return {name: label for label, name in enumerate(self.classes or [])}

    def label(self, key: str) -> int | None:
        """The class of an image, by its path."""
        parts = key.split("/")
        unlabelled = self.classes is None or (self.split and parts[0] == UNLABELLED)
        return None if unlabelled else self.places[parts[1 if self.split else 0]]


def read_tree(keys: Sequence[str]) -> Tree:
    """Tell `class/file` and `split/class/file` from folders without labels, by the paths of all images."""
    parts = [key.split("/") for key in keys]
    tops = {part[0] for part in parts if len(part) > 1}
    flat = any(len(part) == 1 for part in parts)
    split = not flat and bool(tops & {"train", "test"}) and tops <= set(SPLITS)
    depth = 1 if split else 0
    if split:
        parts = [part for part in parts if part[0] != UNLABELLED]
    stray = next(("/".join(part) for part in parts if len(part) <= depth + 1), None)
    labelled = bool(parts) and stray is None
    return Tree(split=split, classes=sorted({part[depth] for part in parts}) if labelled else None, stray=stray)


@dataclass(kw_only=True)
class Found:
    """What lies in a folder and below it, by relative path.

    Attributes:
        images: files that are named like images, with size and time, in the order of their paths.
        shards: Parquet files, likewise in order; those that are links, too.
        other: what is left out, with the reason.
        unreadable: what may hold images and could not be read, with the reason.
    """

    images: dict[str, os.stat_result] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def left_out(self) -> dict[str, str]:
        """What may hold images and is left out, with the reason: what could not be read, and links."""
        links = {key: reason for key, reason in self.other.items() if reason == LINK}
        return dict(sorted({**self.unreadable, **links}.items()))


def find_files(root: Path) -> Found:
    """Look through a folder without opening any file; hidden files are left out, and links are not followed."""
    found = Found()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            found.unreadable[folder or "."] = f"not readable: {error.strerror}"
            continue
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    folders.append(key)
                else:
                    _sort_in(entry, key, found)
            except FileNotFoundError:
                found.other[key] = "vanished while it was looked at"
            except OSError as error:
                found.unreadable[key] = f"not readable: {error.strerror}"
    found.images = dict(sorted(found.images.items()))
    found.shards.sort()
    return found


def _sort_in(entry: "os.DirEntry[str]", key: str, found: Found) -> None:
    """Note what an entry of a folder is that is no folder to look through.

    Raises:
        OSError: the system does not tell.
    """
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a Path a file is slow
    if entry.name.startswith("."):
        found.other[key] = "hidden"
    elif suffix == ".parquet" and entry.is_file():
        found.shards.append(key)
    elif entry.is_symlink():
        found.other[key] = LINK
    elif not entry.is_file(follow_symlinks=False):
        found.other[key] = "not an ordinary file"
    elif suffix not in image_suffixes():
        found.other[key] = "not named like an image"
    else:
        found.images[key] = entry.stat(follow_symlinks=False)
