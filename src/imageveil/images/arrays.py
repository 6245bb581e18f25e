"""Decode once into a uint8 array on disk, then take batches straight from it.

The cache holds plain pixels. It lies in a folder named `plain-images`, readable by its owner only, and
`clear_cache` (`imageveil clear-cache`) deletes it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imageveil.errors import RunError, UsageError
from imageveil.images.decode import PASSING
from imageveil.images.sources import FolderSource, MissingSplitError, Source, open_source

FORMAT = 3
"""Of a cached set; one of another format is decoded anew."""
TEST_SHARE = 0.2
"""Of the images that are judged on where a source has no split of its own."""


DecodedSet = tuple[np.ndarray, np.ndarray, Mapping[str, Any]]
"""Images uint8 (N, 3, H, W), labels int64 (N,), and what else there is to know of a decoded set."""


@dataclass(frozen=True, kw_only=True)
class ImageArrays:
    """A decoded data set.

    Attributes:
        name: short name of the data set, as it stands in records.
        images: uint8 (N, 3, H, W), RGB.
        labels: int64 (N,), or None where the source has none.
        classes: class names by label.
        keys: identity of every image inside its source.
        stray: the image that lies in no class folder, where there are no labels for its sake.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    classes: list[str]
    keys: list[str]
    stray: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    def require_labels(self) -> Tensor:
        """Return the labels.

        Raises:
            UsageError: the source has none.
        """
        if self.labels is None:
            why = "" if self.stray is None else f", for {self.stray} lies in no class folder"
            raise UsageError(
                f"{self.name} has no labels{why}; arrange the images as class/file or use Parquet with 'label'"
            )
        return self.labels

    def subset(self, indices: Tensor) -> "ImageArrays":
        """Return the images at `indices`, in that order."""
        return ImageArrays(
            name=self.name,
            images=self.images[indices],
            labels=None if self.labels is None else self.labels[indices],
            classes=self.classes,
            keys=[self.keys[int(i)] for i in indices],
            stray=self.stray,
        )


def cache_folder() -> Path:
    """The folder of the cache: `plain-images` below $IMAGEVEIL_CACHE, or below ~/.cache/imageveil."""
    root = os.environ.get("IMAGEVEIL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "imageveil") / "plain-images"


def clear_cache() -> Path | None:
    """Delete every decoded plain image; where the folder is a link, in the folder that it leads to.

    Returns:
        The folder that was deleted, or None where there was none.

    Raises:
        RunError: something in it could not be deleted.
    """
    link = cache_folder()
    folder = link.resolve()
    try:
        if folder.exists():
            shutil.rmtree(folder)
        elif not link.is_symlink():
            return None
        if link.is_symlink():
            link.unlink()  # it would lead nowhere, and hinder the next folder of this name
    except OSError as error:
        raise RunError(f"plain images are left in {folder}: {error.filename}: {error.strerror}") from error
    return folder


def load_arrays(spec: str, split: str | None = None) -> ImageArrays:
    """Decode a source, or reuse what an earlier call decoded.

    Args:
        spec: see `open_source`.
        split: `train`, `test` or None for everything.

    Images that cannot be read are left out with a warning.

    Raises:
        UsageError: the source is missing or empty, its images differ in size, or some have a label and some have none.
        RunError: the cache could not be written.
    """
    source = open_source(spec, split)
    folder = cache_folder() / hashlib.sha256(f"{FORMAT} {split} {source.fingerprint()}".encode()).hexdigest()[:24]
    if (folder / "meta.json").is_file():
        images, labels, meta = _read(folder)
    else:
        images, labels, meta = _decode(source)
        # What may be readable the next time is no part of the source's fingerprint.
        if not any(reason.startswith(PASSING) for reason in meta["skipped"].values()):
            _write(folder, images, labels, meta)
            images, labels, meta = _read(folder)
    if meta["skipped"]:
        key, reason = next(iter(meta["skipped"].items()))
        warnings.warn(f"left out of {spec}: {len(meta['skipped'])}, the first {key}: {reason}", stacklevel=2)
    return ImageArrays(
        name=source.name,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels) if meta["labelled"] else None,
        classes=meta["classes"],
        keys=meta["keys"],
        stray=source.tree.stray if isinstance(source, FolderSource) else None,
    )


def load_splits(spec: str) -> tuple[ImageArrays, ImageArrays | None]:
    """Training images, and images to judge on where the source has them apart.

    Raises:
        UsageError: the source is missing or empty, or its images differ in size.
    """
    train = load_arrays(spec, "train")
    try:
        test = load_arrays(spec, "test")
    except MissingSplitError:
        return train, None
    whole = train.keys == test.keys and torch.equal(train.images, test.images)
    return train, None if whole else test


def train_and_test(spec: str, seed: int) -> tuple[ImageArrays, ImageArrays]:
    """Training images and images to judge on; a source without these splits is dealt out here, four to one.

    Args:
        spec: see `open_source`.
        seed: decides which images are judged on where the source does not say.

    Raises:
        UsageError: the source is missing, empty or too small to deal out, or its images differ in size.
    """
    train, test = load_splits(spec)
    return deal_out(train, seed) if test is None else (train, test)


def deal_out(data: ImageArrays, seed: int, held_out: int | None = None) -> tuple[ImageArrays, ImageArrays]:
    """Deal images at random into two sets; folders are sorted by class, so the first or last would not do.

    Args:
        data: the images.
        seed: decides which go where.
        held_out: how many go into the second set; None for a fifth of them.

    Raises:
        UsageError: fewer than two images are left in one of the sets.
    """
    number = max(2, round(TEST_SHARE * len(data))) if held_out is None else held_out
    if not 2 <= number <= len(data) - 2:
        raise UsageError(f"cannot hold {number} of the {len(data)} images of {data.name} out: each side needs two")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[number:]), data.subset(order[:number])


def judged(test: ImageArrays, number: int) -> ImageArrays:
    """The first so many images to judge on; spread evenly where images are sorted by class, as in folders."""
    if number >= len(test):
        return test
    sorted_by_class = test.labels is not None and bool((test.labels.diff() >= 0).all())
    places = torch.arange(number)
    return test.subset(places * len(test) // number if sorted_by_class else places)


def _decode(source: Source) -> DecodedSet:
    """Decode a source.

    Raises:
        UsageError: as `load_arrays`.
    """
    pixels, labels, keys = [], [], []
    for record in source:
        pixels.append(np.asarray(record.image).transpose(2, 0, 1))
        labels.append(-1 if record.label is None else record.label)
        keys.append(record.key)
    if not pixels:
        raise UsageError(f"{source.name} holds no readable image ({len(source.skipped.reasons)} were skipped)")
    sizes = {image.shape[1:] for image in pixels}
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for h, w in sorted(sizes)[:3])
        raise UsageError(
            f"{source.name} holds images of different sizes ({some}, ...): give one size (protect takes any)"
        )
    labelled = max(labels) >= 0
    if labelled and min(labels) < 0:
        raise UsageError(f"{sum(label < 0 for label in labels)} images of {source.name} have no label, the others do")
    classes = source.classes or ([str(i) for i in range(max(labels) + 1)] if labelled else [])
    if labelled and max(labels) >= len(classes):
        raise UsageError(f"{source.name} has the label {max(labels)}, but names {len(classes)} classes only")
    meta = {"labelled": labelled, "classes": classes, "keys": keys, "skipped": source.skipped.reasons}
    return np.stack(pixels), np.array(labels, dtype=np.int64), meta


def _write(folder: Path, images: np.ndarray, labels: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Write a decoded set to `folder`, which appears only when it is complete.

    Raises:
        RunError: it cannot be written.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.parent.chmod(0o700)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        np.save(temporary / "images.npy", images)
        np.save(temporary / "labels.npy", labels)
        (temporary / "meta.json").write_text(json.dumps(meta))
        for path in temporary.iterdir():
            path.chmod(0o600)
        if not folder.exists():
            temporary.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write the image cache {folder.parent}: {error.strerror}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> DecodedSet:
    """Open a set that `_write` wrote; its images stay on the disk until they are used."""
    meta = json.loads((folder / "meta.json").read_text())
    return np.load(folder / "images.npy", mmap_mode="c"), np.load(folder / "labels.npy"), meta
