"""Where images come from: a folder, Parquet shards in the Hugging Face layout, or a data set by name.

Every source yields records (key, encoded or decoded image, label) and says what it skipped and why.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq
from PIL import Image

from imageveil.errors import UsageError
from imageveil.images.decode import ImageError, decode
from imageveil.images.layout import SPLITS, Found, find_files, read_tree, split_of
from imageveil.images.parquet import DAMAGE, RowNames, damage, open_shard, open_shards, shard_labels

NAMED = ("cifar10", "cifar100", "stl10")


class MissingSplitError(UsageError):
    """The source is split, but has no images of the split that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a source.

    Attributes:
        key: identity inside the source, once in it: the relative path, or `shard/row` without one.
        image: the decoded RGB image.
        label: class index, or None where the source has no labels.
    """

    key: str
    image: Image.Image
    label: int | None


@dataclass
class Skipped:
    """What a source left out: keys with the reason, in the order met."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, reason: str) -> None:
        """Note that `key` was left out."""
        self.reasons[key] = reason


class Source(Protocol):
    """An ordered collection of images.

    Attributes:
        name: short name for records and messages.
        classes: class names by label, or None without labels.
        skipped: filled while the source is read.
    """

    name: str
    classes: list[str] | None
    skipped: Skipped

    def fingerprint(self) -> str:
        """Return a text that changes when the files of the source change."""
        ...

    def __iter__(self) -> Iterator[Record]: ...


class FolderSource:
    """A tree `class/file` or `split/class/file`, or a folder without labels.

    Links are not followed, and skipped; hidden files and those not named like images are no part of it.

    Args:
        root: the folder.
        found: what lies in it.
        split: only that one where there are splits; None for all.
    """

    def __init__(self, root: Path, found: Found, split: str | None = None) -> None:
        self.name = own_name(root)
        self.root = root.resolve()
        self.left_out = found.left_out()
        self.skipped = Skipped(dict(self.left_out))
        self.tree = read_tree(list(found.images))
        self.files = {
            key: stat
            for key, stat in found.images.items()
            if split is None or not self.tree.split or key.startswith(f"{split}/")
        }
        if found.images and not self.files:
            there = ", ".join(sorted({key.split("/")[0] for key in found.images}))
            raise MissingSplitError(f"{root} is split into {there} and has no images of the split {split!r}")
        stray = next((key for key in self.files if self.tree.label(key) is None), None)
        if self.tree.classes is not None and stray is not None:  # together with the split `unlabeled`, none has a label
            self.tree = replace(self.tree, classes=None, stray=stray)
        self.classes = self.tree.classes

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files, what was left out, and the classes, which other splits decide too."""
        files = ([key, stat.st_size, stat.st_mtime_ns] for key, stat in self.files.items())
        return json.dumps([str(self.root), self.left_out, self.classes, *files])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images in the order of their paths."""
        for key in self.files:
            try:
                image = decode((self.root / key).read_bytes(), name=key)
            except ImageError as error:
                self.skipped.add(key, str(error))
                continue
            except OSError as error:
                self.skipped.add(key, f"not readable: {error.strerror}")
                continue
            yield Record(key=key, image=image, label=self.tree.label(key))


class ParquetSource:
    """Parquet shards with a column `image` of structs {bytes, path} and, optionally, an integer column `label`.

    Args:
        name: short name for records and messages.
        shards: those that are read.
        earlier: those of other splits that come before them; their rows have names already.
    """

    def __init__(self, name: str, shards: Sequence[Path], earlier: Sequence[Path] = ()) -> None:
        self.name = name
        self.shards = shards
        self.earlier = earlier
        self.skipped = Skipped()
        self.labelled, self.classes = shard_labels(open_shard(shards[0]))

    def fingerprint(self) -> str:
        """Paths, sizes and times of all shards, with those that decide names."""
        stats = ((path, path.stat()) for path in (*self.earlier, *self.shards))
        return json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images shard by shard, in the order of the rows."""
        names = RowNames()
        for shard in self.earlier:
            names.take(shard)
        for shard, file in open_shards(self.shards):
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                try:
                    yield from self._group(shard, file, group, first, names)
                except DAMAGE as error:
                    self.skipped.add(f"{shard.name}, row group {group}", f"{damage(error)}; it holds {rows} images")
                first += rows

    def _group(self, shard: Path, file: pq.ParquetFile, group: int, row: int, names: RowNames) -> Iterator[Record]:
        """Yield the readable images of a row group, whose first row is `row` of the shard."""
        columns = ["image", "label"] if self.labelled else ["image"]
        for batch in file.iter_batches(batch_size=512, row_groups=[group], columns=columns):
            labels = batch.column("label").to_pylist() if self.labelled else [None] * len(batch)
            for cell, label in zip(batch.column("image").to_pylist(), labels, strict=True):
                key = names.key((cell or {}).get("path"), shard, row)
                row += 1
                try:
                    image = decode((cell or {}).get("bytes") or b"")
                except ImageError as error:
                    self.skipped.add(key, str(error))
                    continue
                yield Record(key=key, image=image, label=label)


class NamedSource:
    """CIFAR-10, CIFAR-100 or STL-10 by name, downloaded by torchvision with its checksum."""

    def __init__(self, name: str, split: str, root: Path) -> None:
        try:
            from torchvision import datasets
        except ImportError as error:
            raise UsageError(f"{name} by name needs torchvision: pip install 'imageveil[datasets]'") from error
        self.name = name
        self.split = split
        self.skipped = Skipped()
        try:
            if name == "stl10":
                self.data = datasets.STL10(str(root), split=split, download=True)
            else:
                kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
                self.data = kind(str(root), train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{name} could not be downloaded to {root}; give a folder or Parquet path instead"
            ) from error
        self.classes: list[str] | None = list(self.data.classes)

    def fingerprint(self) -> str:
        """Name and split; the files themselves are checked by torchvision."""
        return f"{self.name} {self.split}"

    def targets(self) -> list[int]:
        """Class index of every image, in the official order."""
        return [int(label) for label in (self.data.labels if self.name == "stl10" else self.data.targets)]

    def __iter__(self) -> Iterator[Record]:
        """Yield all images in the official order."""
        for index in range(len(self.data)):
            image, label = self.data[index]
            yield Record(key=f"{self.split}/{index:06d}", image=image.convert("RGB"), label=int(label))


def open_source(spec: str, split: str | None = None, *, root: Path | None = None) -> Source:
    """Open images by name or path.

    Args:
        spec: `cifar10`, `cifar100`, `stl10`, a Parquet file, a folder of Parquet shards, or an image folder.
        split: `train`, `test` or another of `SPLITS`. Selects shards `train-*.parquet` (or `train.parquet`) or the
            sub-folder `train/`;
            a source that is not split is taken whole. None takes everything, of a data set by name `train`.
        root: where named data sets are downloaded to.

    Raises:
        UsageError: nothing is there, or it holds no images, or none of that split.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; use one of: {', '.join(SPLITS)}")
    if spec in NAMED and not Path(spec).exists():
        if split not in (None, "train", "test"):
            raise UsageError(f"{spec} has no images of the split {split!r}; use train or test")
        return NamedSource(spec, split or "train", root or Path.home() / ".cache" / "imageveil" / "downloads")
    path, found = Path(spec), find_source(spec)
    if found.shards:
        shards = [path] if path.is_file() else [path / name for name in found.shards]
        splits = {shard: split_of(shard.stem) for shard in shards}
        whole = path.is_file() or split is None or not any(splits.values())
        chosen = [shard for shard in shards if whole or splits[shard] == split]
        if not chosen:
            raise MissingSplitError(f"{spec} has no shards named {split}-*.parquet")
        earlier = shards[: shards.index(chosen[0])]  # they are sorted, so that those of a split lie together
        return ParquetSource(path.stem if path.is_file() else own_name(path), chosen, earlier)
    source = FolderSource(path, found, split)
    if not source.files:
        raise UsageError(f"{spec} holds no images: no file there ends like an image and no shard is Parquet")
    return source


def own_name(folder: Path) -> str:
    """The name of a folder, also where it was given as `.`; of a link, that of the link."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - resolve() would follow the link


def find_source(spec: str) -> Found:
    """Find the files of a source: images or Parquet shards, and never one beside the other that is left out.

    Raises:
        UsageError: nothing is there, or a file that is not Parquet, or a folder that holds both, or shards in folders
            of their own.
    """
    path = Path(spec)
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise UsageError(f"{spec} cannot be reached: {error.strerror}") from error
    if not exists:
        raise UsageError(f"{spec} does not exist; give an image folder, Parquet, or one of: {', '.join(NAMED)}")
    if is_file and path.suffix.lower() != ".parquet":
        raise UsageError(f"{spec} is a file but not Parquet; give the folder that holds the images")
    found = Found(shards=[path.name]) if is_file else find_files(path)
    if (left_out := found.left_out()) and not (found.images or found.shards):
        key, reason = next(iter(left_out.items()))
        raise UsageError(f"{spec} holds no images that can be reached; {key} is {reason}")
    if found.images and found.shards:
        some = f"images ({next(iter(found.images))}) and Parquet files ({found.shards[0]})"
        raise UsageError(f"{spec} holds {some}; put either into a folder of its own")
    deep = [name for name in found.shards if "/" in name]
    if deep:
        raise UsageError(f"{spec} holds Parquet files in folders ({deep[0]}); give the folder in which they lie")
    return found
