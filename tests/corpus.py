"""More than 200 unusual and malformed image files, built from a real photograph."""

import io
import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin

SECRET = b"SECRET-HOME-52.5200N"


@dataclass(frozen=True)
class Case:
    name: str
    blob: bytes
    fate: str  # `protected`, `skipped`, or `either`


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    data[0x010E] = SECRET.decode()
    return data.tobytes()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "PPM": ("1", "L", "RGB", "I"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
    "ICO": ("RGB", "RGBA"),
    "PCX": ("1", "L", "P", "RGB"),
    "SGI": ("L", "RGB", "RGBA"),
}
SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif"}


def in_mode(photo: Image.Image, mode: str) -> Image.Image:
    if mode in ("I;16", "I"):
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).convert(mode)
    if mode == "F":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.float32) / 255)
    if mode == "LAB":
        from PIL import ImageCms

        made = ImageCms.createProfile
        return ImageCms.applyTransform(photo, ImageCms.buildTransform(made("sRGB"), made("LAB"), "RGB", "LAB"))
    return photo.convert(mode)


def build(photo: Image.Image) -> list[Case]:
    """Build the corpus from an RGB photograph of about 24x20 pixels."""
    cases: list[Case] = []
    valid: dict[str, bytes] = {}
    for kind, modes in MODES.items():
        suffix = SUFFIX.get(kind, "." + kind.lower())
        for mode in modes:
            options = {"sizes": [(24, 20)]} if kind == "ICO" else {}
            blob = encoded(in_mode(photo, mode), kind, **options)
            cases.append(Case(f"mode-{kind}-{mode.replace(';', '')}{suffix}", blob, "protected"))
            valid.setdefault(suffix, blob)
        valid[suffix] = encoded(photo, kind, **({"sizes": [(24, 20)]} if kind == "ICO" else {}))

    transparent = photo.convert("P")
    transparent.info["transparency"] = 0
    cases.append(Case("transparent.gif", encoded(transparent, "GIF", transparency=0), "protected"))
    cases += [Case(f"turned-{turn}.jpg", encoded(photo, "JPEG", exif=exif(turn)), "protected") for turn in range(1, 9)]
    cases.append(Case("bad-exif.jpg", encoded(photo, "JPEG", exif=b"Exif\0\0" + SECRET), "protected"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET.decode())
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    cases.append(Case("text.png", encoded(photo, "PNG", pnginfo=text, exif=exif(6)), "protected"))
    cases.append(Case("comment.jpg", encoded(photo, "JPEG", comment=SECRET, icc_profile=SECRET), "protected"))
    cases.append(Case("xmp.webp", encoded(photo, "WEBP", xmp=SECRET, exif=exif(3), icc_profile=SECRET), "protected"))
    frames = [photo.rotate(90 * n) for n in range(1, 4)]
    for kind, suffix in (("GIF", ".gif"), ("WEBP", ".webp"), ("PNG", ".png"), ("TIFF", ".tif"), ("MPO", ".jpg")):
        blob = encoded(photo, kind, save_all=True, append_images=frames)
        cases.append(Case(f"frames-{kind}{suffix}", blob, "protected"))
    for width, height in ((1, 1), (1, 70), (70, 1), (2, 3), (7, 9), (33, 31)):
        cases.append(Case(f"size-{width}x{height}.png", encoded(photo.resize((width, height)), "PNG"), "protected"))
    names = ("with space", "ümläut-名前", "-dash", "a.b.c", "x" * 150, "UPPER", "quote'\"", "new\nline", "%41", "~")
    cases += [Case(f"{name}.png", valid[".png"], "protected") for name in names]
    cases.append(Case("capital.JPG", valid[".jpg"], "protected"))

    for suffix, blob in valid.items():
        cases.append(Case(f"trailing{suffix}", blob + SECRET, "either" if suffix == ".tga" else "protected"))
        cases.append(Case(f"empty{suffix}", b"", "skipped"))
        cases.append(Case(f"text{suffix.replace('.', '-')}{suffix}", b"These are words, not pixels. " * 9, "skipped"))
        for share in (0.02, 0.3, 0.6, 0.95):
            fate = "skipped" if suffix in (".png", ".jpg", ".webp", ".bmp", ".ppm") and share < 0.9 else "either"
            cases.append(Case(f"cut-{share}{suffix}", blob[: int(len(blob) * share)], fate))
        other = ".png" if suffix != ".png" else ".jpg"
        cases.append(Case(f"mislabelled{suffix.replace('.', '-')}{other}", blob, "skipped"))
        for seed in range(6):
            chance = random.Random(f"{suffix} {seed}")
            damaged = bytearray(blob)
            for _ in range(1 + seed * 3):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            cases.append(Case(f"damaged-{seed}{suffix}", bytes(damaged), "either"))
    cases.append(Case("bomb.png", png_header(60_000, 60_000), "skipped"))
    cases.append(Case("wide-bomb.png", png_header(2**31 - 1, 1), "skipped"))
    cases.append(Case("zero.png", png_header(0, 0), "skipped"))
    cases.append(Case("bomb.ppm", b"P6 60000 60000 255\n" + bytes(99), "skipped"))
    cases.append(Case("postscript.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "skipped"))
    cases.append(Case("phone.heic", b"\0\0\0\x18ftypheic" + bytes(64), "skipped"))
    cases.append(
        Case("not-a-number.tif", encoded(Image.fromarray(np.full((4, 5), np.nan, np.float32)), "TIFF"), "skipped")
    )
    return cases
