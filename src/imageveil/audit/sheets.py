"""Sheets of images as PNG: grids to look at, without a letter burned in."""

import io
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imageveil.errors import RunError, UsageError
from imageveil.images.sources import open_source
from imageveil.schemes import load_scheme

GAP = 2
# Small images are enlarged by whole pixels until a cell has about this many.
CELL = 64
# Neither black nor white, so that dark and bright images both stand out.
BACKGROUND = (128, 128, 128)


def sheet(*batches: Sequence[Tensor] | Tensor, columns: int = 8, scale: int = 1) -> bytes:
    """Lay batches of images out as grids, side by side.

    Args:
        batches: each a uint8 batch (N, 3, H, W) or a list of images (3, H, W) of any sizes; smaller images stand in
            the middle of their cell.
        columns: images in a row of each grid.
        scale: enlargement by whole pixels.

    Returns:
        A PNG file.

    Raises:
        UsageError: there is no image.
    """
    grids = [_grid([_picture(image, scale) for image in batch], columns) for batch in batches]
    gap = 4 * GAP
    width = sum(grid.width for grid in grids) + gap * (len(grids) - 1)
    page = Image.new("RGB", (width, max(grid.height for grid in grids)), BACKGROUND)
    left = 0
    for grid in grids:
        page.paste(grid, (left, 0))
        left += grid.width + gap
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_sheet(path: Path, *batches: Sequence[Tensor] | Tensor, columns: int) -> None:
    """Write a sheet of batches side by side, small images enlarged.

    Raises:
        UsageError: there is no image.
        RunError: the file cannot be written.
    """
    picture = sheet(*batches, columns=columns, scale=scale_for(batches[0]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def check_png(option: str, path: Path) -> None:
    """Refuse a name that does not say that it is a sheet's.

    Raises:
        UsageError: it does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: a sheet is a PNG file; give a name that ends in .png")


def scale_for(images: Sequence[Tensor] | Tensor) -> int:
    """The whole factor that makes the largest image about 64 pixels high, or 1."""
    return max(1, CELL // max(image.shape[-2] for image in images))


def _picture(image: Tensor, scale: int) -> Image.Image:
    pixels = Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    return pixels.resize((pixels.width * scale, pixels.height * scale), Image.Resampling.NEAREST)


def _grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    if not pictures:
        raise UsageError("a sheet needs at least one image")
    columns = min(columns, len(pictures))
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    rows = math.ceil(len(pictures) / columns)
    grid = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), BACKGROUND)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        corner = (column * (width + GAP) + (width - picture.width) // 2, row * (height + GAP))
        grid.paste(picture, (corner[0], corner[1] + (height - picture.height) // 2))
    return grid


def run_sheet(scheme: str, data: str, *, out: Path, split: str = "test", images: int = 64) -> str:
    """Write a PNG with the first images of a set on the left and their protected selves on the right.

    Images may differ in size. Returns one line that says what was written.

    Raises:
        UsageError: scheme or images are missing, `images` is not positive, or `out` does not end in .png.
        RunError: the file cannot be written.
    """
    if images < 1:
        raise UsageError(f"--images {images}: give a positive number")
    check_png("--out", out)
    opened = load_scheme(scheme)
    records = list(islice(open_source(data, split), images))
    if not records:
        raise UsageError(f"{data} holds no readable image")
    plain = [torch.from_numpy(np.array(record.image)).permute(2, 0, 1) for record in records]
    protected = [opened.protect(image[None], ids=[record.key])[0] for image, record in zip(plain, records, strict=True)]
    columns = min(8, math.ceil(math.sqrt(len(plain))))
    write_sheet(out, plain, protected, columns=columns)
    return f"{out}: {len(plain)} images, plain on the left, protected on the right"
