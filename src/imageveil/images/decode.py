"""From the bytes of an image file to RGB pixels."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """An image that cannot be used, with the reason in a few words."""


def decode(blob: bytes) -> Image.Image:
    """Decode an image file to RGB, with the EXIF orientation applied.

    Raises:
        ImageError: the bytes are empty, no image, or damaged.
    """
    if not blob:
        raise ImageError("empty")
    try:
        with Image.open(io.BytesIO(blob)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"damaged: {error}") from error
