"""From the bytes of an image file to RGB pixels, upright and without anything else.

What becomes of each mode: 1, L and P are spread to RGB; transparent images (LA, PA, RGBA, or P with a transparent
colour) are laid over white; CMYK, YCbCr, LAB and HSV are converted without a colour profile; 16-bit grey (I;16, I) is
divided by 257; F is taken as [0, 1] when no value is above 1, else as [0, 255]. The EXIF orientation is applied first,
and only the first picture of an animation or a multi-page file is read.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from imageveil.errors import UsageError

# Pillow also opens EPS and WMF, but hands them to other programs that write temporary files: plain pixels on disk.
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
# Images by name that nothing here reads; raw files would give their thumbnail.
FOREIGN = frozenset(
    (
        *(".heic", ".heif", ".heics", ".heifs", ".hif", ".psd", ".eps", ".svg", ".jxl"),
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
LARGEST = 178_956_970  # pixels; Pillow's own limit against decompression bombs
TOO_LARGE = "too large for this machine's memory"
PASSING = (TOO_LARGE, "not readable", "vanished")
"""How reasons for leaving an image out begin that may be gone when it is read again."""
ALIKE = {"MPO": "JPEG", "DIB": "BMP", "CUR": "ICO"}


class ImageError(UsageError):
    """An image that cannot be used, with the reason in a few words. Where it cannot be left out, the run ends."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image: RGB, upright.
        notes: what the file held beside that and was left out, or what had to be assumed.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()


def decode(blob: bytes, *, name: str = "") -> Image.Image:
    """Decode an image file to RGB, with the EXIF orientation applied.

    Args:
        blob: the bytes of the file.
        name: see `decode_file`.

    Raises:
        ImageError: the bytes are empty, no image, damaged, or unpack to more than `LARGEST` pixels, or the name's
            ending contradicts the content.
    """
    return decode_file(io.BytesIO(blob), name=name).image


def decode_file(file: IO[bytes], *, name: str = "", largest: int = LARGEST) -> Decoded:
    """Decode an open image file.

    Args:
        file: the file, positioned at its start.
        name: its name, when the ending has to agree with the content; "" accepts any of `FORMATS`.
        largest: most pixels that are accepted.

    Raises:
        ImageError: as `decode`.
    """
    with open_image(file, name=name, largest=largest) as image:
        return decode_open(image)


def open_image(file: IO[bytes], *, name: str = "", largest: int = LARGEST) -> Image.Image:
    """Read the header of an image file, as `decode_file` does; the size is known then, the pixels are not.

    Raises:
        ImageError: as `decode_file`.
    """
    with _faults():
        return _open(file, name, largest)


def decode_open(image: Image.Image) -> Decoded:
    """Decode an image that `open_image` returned.

    Raises:
        ImageError: as `decode_file`.
    """
    with _faults():
        return _upright_rgb(image)


@contextmanager
def _faults() -> Iterator[None]:
    """Whatever an image file does to Pillow becomes an `ImageError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata is of no interest: none is kept
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(TOO_LARGE) from error
    except OSError as error:  # of Pillow, or with a number of the system
        raise ImageError(f"not readable: {error.strerror}" if error.errno else f"damaged: {_reason(error)}") from error
    except Exception as error:  # Pillow's plugins raise what their parsing happens to raise
        raise ImageError(f"damaged: {_reason(error)}") from error


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Endings of file names that promise an image, read here or not."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if ALIKE.get(kind, kind) in FORMATS) | FOREIGN


@lru_cache
def _readable() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow opens."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _open(file: IO[bytes], name: str, largest: int) -> Image.Image:
    if not file.read(1):
        raise ImageError("empty")
    file.seek(0)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in FOREIGN:
        raise ImageError(f"{suffix} files are not read here; convert them to PNG or JPEG first")
    try:
        image = Image.open(file, formats=_readable())
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a format that is read here") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"refused: unpacks to more than {LARGEST // 10**6} million pixels") from error
    if image.width * image.height > largest:
        raise ImageError(f"refused: unpacks to more than {largest // 10**6} million pixels")
    kind = str(image.format)
    promised = Image.registered_extensions().get(suffix, kind)
    if ALIKE.get(promised, promised) != ALIKE.get(kind, kind):
        raise ImageError(f"mislabelled: the name says {promised}, the content is {kind}")
    return image


def _upright_rgb(image: Image.Image) -> Decoded:
    notes = []
    if image.format == "MPO" or getattr(image, "is_animated", False):
        notes.append("only the first of several pictures was kept")
    image.seek(0)
    image.load()
    if image.info:  # every format tells of an orientation in there; looking for it takes as long as decoding 32x32
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # the orientation may be wrong, the pixels are not
            notes.append("unreadable EXIF data: the orientation was not applied")
    deep = image.mode == "F" or image.mode.startswith("I")
    if deep:
        rgb = Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
        if image.has_transparency_data:
            notes.append("a transparent grey level was kept as grey")
    elif image.has_transparency_data:
        cover = image.convert("RGBA")
        alpha = cover.getchannel("A")
        if alpha.getextrema() != (255, 255):
            notes.append("transparency was laid over white")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(cover, mask=alpha)
    elif image.mode == "LAB":
        rgb = _lab_to_rgb(image)
    elif image.mode == "RGB" and not getattr(image, "is_animated", False):
        rgb = image  # as it is: a copy of a large photograph is too much
    else:
        rgb = image.convert("RGB")
    rgb.info.clear()
    return Decoded(rgb, tuple(notes))


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey levels uint8 (H, W) from 16-bit, 32-bit or float ones."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("damaged: holds values that are not numbers")
        scaled = values * 255 if values.size and values.max() <= 1 else values
    else:
        scaled = values.astype(np.float64) / 257
    levels: np.ndarray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return levels


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    out = ImageCms.applyTransform(image, transform)
    assert out is not None
    return out


def _reason(error: Exception) -> str:
    """The first line of an error's text, short, or its kind."""
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
