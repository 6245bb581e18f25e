"""Where images come from: a folder, Parquet shards in the Hugging Face layout, or a data set by name.

Every source yields records (key, encoded or decoded image, label) and says what it skipped and why.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imageveil.errors import UsageError
from imageveil.images.decode import ImageError, decode, image_suffixes
from imageveil.images.layout import SPLITS, read_tree, split_of

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

    Links are not followed; hidden files and those not named like images are left out.

    Args:
        root: the folder.
        split: only that one where there are splits; None for all.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        self.name = root.name
        self.root = root
        self.skipped = Skipped()
        suffixes = image_suffixes()
        found = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink() and path.suffix.lower() in suffixes
        )
        found = [key for key in found if not any(part.startswith(".") for part in key.split("/"))]
        self.tree = read_tree(found)
        self.keys = [key for key in found if split is None or not self.tree.split or key.startswith(f"{split}/")]
        if found and not self.keys:
            there = ", ".join(sorted({key.split("/")[0] for key in found}))
            raise MissingSplitError(f"{root} is split into {there} and has no images of the split {split!r}")
        self.classes = self.tree.classes

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files."""
        stats = ((key, (self.root / key).stat()) for key in self.keys)
        return json.dumps([str(self.root), *([key, stat.st_size, stat.st_mtime_ns] for key, stat in stats)])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images in the order of their paths."""
        for key in self.keys:
            try:
                image = decode((self.root / key).read_bytes())
            except (ImageError, OSError) as error:
                self.skipped.add(key, str(error))
                continue
            yield Record(key=key, image=image, label=self.tree.label(key))


class ParquetSource:
    """Parquet shards with a column `image` of structs {bytes, path} and, optionally, an integer column `label`."""

    def __init__(self, name: str, shards: list[Path]) -> None:
        self.name = name
        self.shards = shards
        self.skipped = Skipped()
        schema = open_shard(shards[0]).schema_arrow
        self.labelled = "label" in schema.names
        self.classes = class_names(schema.metadata) if self.labelled else None

    def fingerprint(self) -> str:
        """Paths, sizes and times of all shards."""
        stats = ((path, path.stat()) for path in self.shards)
        return json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images shard by shard, in the order of the rows."""
        columns = ["image", "label"] if self.labelled else ["image"]
        names = RowNames()
        for shard in self.shards:
            row = 0
            try:
                for batch in open_shard(shard).iter_batches(batch_size=512, columns=columns):
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
            except (pa.ArrowException, OSError) as error:
                raise unreadable_shard(shard, error) from error


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a Parquet file that has the column `image` of the Hugging Face layout.

    Raises:
        UsageError: it is damaged, or has no such column.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_shard(path, error) from error
    schema = file.schema_arrow
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is None or not pa.types.is_struct(kind) or {"bytes", "path"} - {field.name for field in kind}:
        raise UsageError(f"{path} has no column 'image' of {{bytes, path}}, the Hugging Face image layout")
    return file


def unreadable_shard(path: Path, error: Exception) -> UsageError:
    """One sentence about a Parquet file that cannot be read."""
    return UsageError(f"{path} cannot be read as Parquet: {(str(error).splitlines() or [type(error).__name__])[0]}")


class RowNames:
    """Names the rows of a source's Parquet shards, each name once: a key per image must not serve two."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def key(self, path: str | None, shard: Path, row: int) -> str:
        """The row's path, or `shard/row` without one; where others have that path, with `shard-row-` before its name.

        Args:
            path: the row's own, or None.
            shard: the file it is in.
            row: its number there.
        """
        key = path or f"{shard.stem}/{row:07d}"
        if key in self.taken:
            folder, slash, name = key.rpartition("/")
            key = f"{folder}{slash}{shard.stem}-{row:07d}-{name}"
        self.taken.add(key)
        return key


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
    path = Path(spec)
    if not path.exists():
        raise UsageError(f"{spec} does not exist; give an image folder, Parquet, or one of: {', '.join(NAMED)}")
    if path.is_file():
        if path.suffix == ".parquet":
            return ParquetSource(path.stem, [path])
        raise UsageError(f"{spec} is a file but not Parquet; give the folder that holds the images")
    shards = sorted(path.glob("*.parquet"))
    if shards:
        splits = {shard: split_of(shard.stem) for shard in shards}
        whole = split is None or not any(splits.values())
        chosen = [shard for shard in shards if whole or splits[shard] == split]
        if not chosen:
            raise MissingSplitError(f"{spec} has no shards named {split}-*.parquet")
        return ParquetSource(path.name, chosen)
    source = FolderSource(path, split)
    if not source.keys:
        raise UsageError(f"{spec} holds no images: no file there ends like an image and no shard is Parquet")
    return source


def class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Class names from the `huggingface` entry of a Parquet schema, if it has any."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
