"""Where images come from: a folder, Parquet shards in the Hugging Face layout, or a data set by name.

Every source yields records (key, encoded or decoded image, label) and says what it skipped and why.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq
from PIL import Image

from imageveil.errors import UsageError
from imageveil.images.decode import ImageError, decode

NAMED = ("cifar10", "cifar100", "stl10")
SUFFIXES = frozenset(Image.registered_extensions())


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a source.

    Attributes:
        key: identity inside the source: the relative path, or `shard/row` without one.
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
    """A tree `class/file`, or a flat folder without labels. Links are not followed; other files are skipped."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self.root = root
        self.skipped = Skipped()
        self.files = sorted(
            path
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink() and path.suffix.lower() in SUFFIXES
        )
        folders = sorted({path.relative_to(root).parts[0] for path in self.files if path.parent != root})
        flat = any(path.parent == root for path in self.files)
        self.classes = folders if folders and not flat else None

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files."""
        stats = ((path, path.stat()) for path in self.files)
        return json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images in the order of their paths."""
        for path in self.files:
            key = path.relative_to(self.root).as_posix()
            try:
                image = decode(path.read_bytes())
            except (ImageError, OSError) as error:
                self.skipped.add(key, str(error))
                continue
            label = self.classes.index(key.split("/", 1)[0]) if self.classes is not None else None
            yield Record(key=key, image=image, label=label)


class ParquetSource:
    """Parquet shards with a column `image` of structs {bytes, path} and, optionally, an integer column `label`."""

    def __init__(self, name: str, shards: list[Path]) -> None:
        self.name = name
        self.shards = shards
        self.skipped = Skipped()
        schema = pq.read_schema(shards[0])
        if "image" not in schema.names:
            raise UsageError(f"{shards[0]} has no column 'image'; expected the Hugging Face image layout")
        self.labelled = "label" in schema.names
        self.classes = class_names(schema.metadata) if self.labelled else None

    def fingerprint(self) -> str:
        """Paths, sizes and times of all shards."""
        stats = ((path, path.stat()) for path in self.shards)
        return json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats])

    def __iter__(self) -> Iterator[Record]:
        """Yield the readable images shard by shard, in the order of the rows."""
        columns = ["image", "label"] if self.labelled else ["image"]
        for shard in self.shards:
            row = 0
            for batch in pq.ParquetFile(shard).iter_batches(batch_size=512, columns=columns):
                labels = batch.column("label").to_pylist() if self.labelled else [None] * len(batch)
                for cell, label in zip(batch.column("image").to_pylist(), labels, strict=True):
                    key = cell.get("path") or f"{shard.stem}/{row:07d}"
                    row += 1
                    try:
                        image = decode(cell["bytes"] or b"")
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
        split: `train` or `test`. Selects shards `train-*.parquet` or the sub-folder `train/` where they exist;
            None takes everything.
        root: where named data sets are downloaded to.

    Raises:
        UsageError: nothing is there, or it holds no images.
    """
    if spec in NAMED and not Path(spec).exists():
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
        chosen = [shard for shard in shards if shard.name.startswith(f"{split}-")] if split else shards
        if not chosen:
            raise UsageError(f"{spec} has no shards named {split}-*.parquet")
        return ParquetSource(path.name, chosen)
    has_splits = (path / "train").is_dir() and (path / "test").is_dir()
    source = FolderSource(path / split if split and has_splits else path)
    source.name = path.name
    if not source.files:
        raise UsageError(f"{spec} holds no images: no file there ends like an image and no shard is Parquet")
    return source


def class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Class names from the `huggingface` entry of a Parquet schema, if it has any."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
