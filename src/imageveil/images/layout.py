"""How images are laid out: `class/file`, `split/class/file` or without labels in a folder; Parquet shards of splits."""

from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "test", "validation", "val", "unlabeled")


def split_of(stem: str) -> str:
    """The split that the name of a Parquet shard begins with, as Hugging Face names shards; "" where it has none."""
    first = stem.split("-")[0]
    return first if first in SPLITS else ""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """How a folder is laid out.

    Attributes:
        split: whether its topmost folders are splits.
        classes: names of the folders below, where all images lie in one, else None.
    """

    split: bool
    classes: list[str] | None

    def label(self, key: str) -> int | None:
        """The class of an image, by its path."""
        return None if self.classes is None else self.classes.index(key.split("/")[1 if self.split else 0])


def read_tree(keys: Sequence[str]) -> Tree:
    """Tell `class/file` and `split/class/file` from folders without labels, by the paths of all images."""
    parts = [key.split("/") for key in keys]
    tops = {part[0] for part in parts if len(part) > 1}
    flat = any(len(part) == 1 for part in parts)
    split = not flat and bool(tops & {"train", "test"}) and tops <= set(SPLITS)
    depth = 1 if split else 0
    labelled = bool(parts) and all(len(part) > depth + 1 for part in parts)
    return Tree(split=split, classes=sorted({part[depth] for part in parts}) if labelled else None)
