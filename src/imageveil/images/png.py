"""Lossless PNG files of protected images: stored as they are where compression would gain next to nothing.

What a learned scheme writes is close to noise. Compressing it takes longer than decoding the photograph it came from
and saves one or two percent, so such images are stored uncompressed inside an ordinary PNG file; all others are
compressed by Pillow. The choice depends on the pixels alone.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Pack = Callable[[bytes, bool], bytes]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK = 65_535  # bytes: what one stored block of deflate holds at most
NOISE = 7.4  # bits a byte: above it, compression saves less than eight percent
LARGE = 2**26  # bytes: from here on, memory counts for more than compression
SAMPLES, SAMPLE = 8, 16_384  # pieces of a larger image that are looked at, and their bytes


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels (H, W, 3) without any metadata."""
    return b"".join(png_pieces(pixels))


def png_pieces(pixels: np.ndarray) -> Iterator[bytes]:
    """The file of `encode_png` in pieces of at most a megabyte or so where the image is large."""
    if like_noise(pixels):
        yield from _file(pixels, 0, _stored())
    elif pixels.size >= LARGE:
        # Band by band: Pillow would hold a copy of the whole image beside the file.
        middle = pixels[len(pixels) // 2].reshape(-1)
        yield from _file(pixels, int(_bits(middle[3:] - middle[:-3]) < _bits(middle)), _deflated())
    else:
        out = io.BytesIO()
        # Higher levels take several times longer and save a few percent.
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        yield out.getvalue()


def like_noise(pixels: np.ndarray) -> bool:
    """Whether compression would gain next to nothing: neither values nor steps between neighbours are predictable."""
    flat = pixels.reshape(-1)
    if flat.size <= SAMPLES * SAMPLE:
        return _bits(flat) > NOISE and _bits(flat[3:] - flat[:-3]) > NOISE
    # Pieces from all over the image, compressed, which finds patterns that repeat too.
    places = np.linspace(0, flat.size - SAMPLE, SAMPLES).astype(int)
    pieces = [flat[place : place + SAMPLE] for place in places]
    if any(_bits(piece) <= NOISE or _bits(piece[3:] - piece[:-3]) <= NOISE for piece in pieces):
        return False
    packed: int = sum(len(zlib.compress(piece.tobytes(), 1)) for piece in pieces)
    return packed > SAMPLES * SAMPLE * NOISE / 8


def _bits(values: np.ndarray) -> float:
    """Entropy of bytes, in bits a byte."""
    counts = np.bincount(values, minlength=256).astype(np.float64)
    # A value that does not occur adds 0 * log 1.
    return math.log2(max(1, len(values))) - float(counts @ np.log2(np.maximum(counts, 1))) / max(1, len(values))


def _file(pixels: np.ndarray, step: int, pack: Pack) -> Iterator[bytes]:
    """The pieces of a PNG file.

    Args:
        pixels: uint8 (H, W, 3).
        step: PNG's filter of every row: 0 for values as they are, 1 for differences from the left neighbour.
        pack: makes a part of a zlib stream of bytes; told when they are the last.
    """
    height, width = pixels.shape[:2]
    yield SIGNATURE
    yield from _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    # Rows are taken in bands of about a megabyte, one IDAT chunk a band.
    band = max(1, 2**20 // (3 * width + 1))
    for top in range(0, height, band):
        some = pixels[top : top + band].reshape(-1, 3 * width)
        rows = np.full((len(some), 3 * width + 1), step, np.uint8)
        rows[:, 1:] = some
        if step:
            rows[:, 4:] -= some[:, :-3]
        yield from _chunk(b"IDAT", pack(rows.tobytes(), top + band >= height))
    yield from _chunk(b"IEND", b"")


def _stored() -> Pack:
    """A zlib stream without compression."""
    checksum, parts = zlib.adler32(b""), [b"\x78\x01"]

    def pack(raw: bytes, last: bool) -> bytes:
        nonlocal checksum, parts
        checksum = zlib.adler32(raw, checksum)
        for start in range(0, len(raw), BLOCK):
            block = raw[start : start + BLOCK]
            final = last and start + BLOCK >= len(raw)
            parts += [struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF), block]
        if last:
            parts.append(struct.pack(">I", checksum))
        packed, parts = b"".join(parts), []
        return packed

    return pack


def _deflated() -> Pack:
    """A zlib stream of the lowest compression."""
    stream = zlib.compressobj(1)
    return lambda raw, last: stream.compress(raw) + (stream.flush() if last else b"")


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    return struct.pack(">I", len(content)) + kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
