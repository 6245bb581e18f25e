"""Pixels as arrays, in bounded memory also for photographs of a hundred megapixels."""

import mmap

import numpy as np
from PIL import Image

LARGE = 2**26  # bytes
STRIP = 2**22  # pixels


def empty_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """An array of uint8.

    A large one has its memory to itself, which goes back to the system with it: where freed memory is kept for the next
    layer (`keep_freed_memory`), an image would leave a hole that hardly anything fits into.
    """
    size = int(np.prod(shape))
    if size < LARGE:
        return np.empty(shape, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size), np.uint8).reshape(shape)


def to_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB image, uint8 (H, W, 3)."""
    if 3 * image.width * image.height < LARGE:
        return np.asarray(image)
    # Strip by strip: as a whole, Pillow holds it three times for a moment.
    out = empty_pixels((image.height, image.width, 3))
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        out[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return out
