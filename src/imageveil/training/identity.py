"""What decides a run's result, short enough to stand in its configuration."""

import hashlib
from pathlib import Path

import torch

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays

SAMPLED_BYTES = 1 << 24


def images_digest(data: ImageArrays) -> str:
    """SHA-256 over shape, labels and classes, and over as many evenly spaced images as make 16 MB.

    It tells data sets of one name and size apart. Pixels that differ only between the sampled images go unnoticed: a
    data set of many gigabytes is not read twice for that.
    """
    count, *shape = data.images.shape
    sha = hashlib.sha256(f"{(count, *shape)} {data.classes}\n".encode())
    if data.labels is not None:
        sha.update(data.labels.numpy().tobytes())
    number = min(count, max(1, SAMPLED_BYTES // data.images[0].numel()))
    sha.update(data.images[torch.arange(number) * count // number].numpy().tobytes())
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
