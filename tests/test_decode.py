"""From files of every kind and state to RGB pixels."""

import io

import corpus
import numpy as np
import pytest
from PIL import Image

import imageveil
from imageveil.images.decode import ImageError, decode, decode_file, decode_open, image_suffixes
from imageveil.schemes import SCHEMES


@pytest.fixture(scope="module")
def photo(photograph) -> Image.Image:
    return Image.fromarray(photograph[:, 100:300:10, 100:340:10].permute(1, 2, 0).numpy())


def test_every_case_decodes_or_says_why_not(photo):
    cases = corpus.build(photo)
    assert len(cases) >= 200 and len({case.name for case in cases}) == len(cases)
    for case in cases:
        try:
            decoded = decode_file(io.BytesIO(case.blob), name=case.name)
        except ImageError as error:
            assert case.fate != "protected", f"{case.name}: {error}"
            assert 0 < len(str(error)) < 200 and "\n" not in str(error)
        else:
            assert case.fate != "skipped", case.name
            assert decoded.image.mode == "RGB" and not decoded.image.info
            assert "frames" not in case.name or decoded.notes


@pytest.mark.parametrize("suffix", [".heic", ".hif", ".pef", ".srw", ".crw", ".3fr", ".rwl", ".mrw", ".kdc", ".dng"])
def test_raw_files_and_heic_are_images_that_are_skipped(photo, suffix):
    assert suffix in image_suffixes()
    with pytest.raises(ImageError, match=f"{suffix} files are not read here"):
        decode_file(io.BytesIO(corpus.encoded(photo, "TIFF")), name=f"a{suffix.upper()}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(photo, orientation):
    turned = corpus.encoded(photo, "PNG", exif=corpus.exif(orientation))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transpositions 0..6 that undo each orientation
    order = {0: "FLIP_LEFT_RIGHT", 1: "FLIP_TOP_BOTTOM", 2: "ROTATE_90", 3: "ROTATE_180", 4: "ROTATE_270"}
    order |= {5: "TRANSPOSE", 6: "TRANSVERSE"}
    expected = photo if orientation == 1 else photo.transpose(Image.Transpose[order[turns[orientation]]])
    assert np.array_equal(np.asarray(decode(turned)), np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "pixel", "rgb"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (100, 128), (177, 177, 177)),  # laid over white: 100 * 128/255 + 127
        ("RGBA", (200, 100, 0, 128), (227, 177, 127)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),  # full ink is 255
        ("CMYK", (51, 0, 102, 51), (163, 204, 122)),  # (255 - C) * (255 - K) / 255
        ("YCbCr", (81, 90, 240), (238, 14, 14)),
        ("LAB", (138, 209, 198), (255, 0, 0)),  # L* 54, a* 81, b* 70
        ("LAB", (137, 128, 128), (128, 128, 128)),
        ("I;16", 51400, (200, 200, 200)),
        ("I;16", 129, (1, 1, 1)),
        ("I", 257 * 7, (7, 7, 7)),
        ("I", 70_000, (255, 255, 255)),
        ("F", 0.25, (64, 64, 64)),
        ("F", 1.0, (255, 255, 255)),
        ("F", 1.5, (2, 2, 2)),  # above 1: from 0 to 255
        ("F", 200.4, (200, 200, 200)),
        ("F", 300.0, (255, 255, 255)),
        ("F", -3.0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_the_colour_that_it_means(mode, pixel, rgb):
    decoded = decode(corpus.encoded(Image.new(mode, (2, 3), pixel), "TIFF"))
    assert decoded.size == (2, 3)
    # Eight bits of LAB are coarse.
    assert np.abs(np.subtract(decoded.getpixel((1, 2)), rgb)).max() <= (5 if mode == "LAB" else 1)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_is_scaled_not_clipped(photo, mode):
    deep = decode(corpus.encoded(corpus.in_mode(photo, mode), "TIFF"))
    assert np.array_equal(np.asarray(deep)[..., 0], np.asarray(photo.convert("L")))


def test_deep_grey_with_a_transparent_level_is_scaled_too(photo):
    deep = corpus.in_mode(photo, "I;16")
    decoded = decode_file(io.BytesIO(corpus.encoded(deep, "PNG", transparency=257)))
    assert np.array_equal(np.asarray(decoded.image)[..., 0], np.asarray(photo.convert("L")))
    assert decoded.notes == ("a transparent grey level was kept as grey",)


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "CMYK", "P"])
def test_the_transform_reads_images_as_protect_does(photo, mode):
    image = corpus.in_mode(photo, mode)
    if "A" in mode:
        image.putalpha(77)
    before = image.tobytes()
    seen = imageveil.VisualProtection(SCHEMES["none"]())(image)
    assert np.array_equal(np.asarray(seen), np.asarray(decode_open(image.copy()).image))
    assert image.mode == mode and image.tobytes() == before
    if mode == "I;16":
        assert np.array_equal(np.asarray(seen)[..., 0], np.asarray(photo.convert("L")))


def test_transparent_pixels_become_white_whatever_colour_they_hide(photo):
    hidden = photo.copy()
    hidden.putalpha(0)
    assert np.asarray(decode(corpus.encoded(hidden, "PNG"))).min() == 255


def test_first_frame_of_an_animation(photo):
    blob = corpus.encoded(photo, "PNG", save_all=True, append_images=[photo.rotate(90)])
    decoded = decode_file(io.BytesIO(blob))
    assert np.array_equal(np.asarray(decoded.image), np.asarray(photo))
    assert decoded.notes == ("only the first of several pictures was kept",)


def test_the_header_of_a_file_is_read_once(photo, tmp_path, monkeypatch):
    from imageveil.deploy.listing import list_source
    from imageveil.deploy.workers import Origin, decode_part

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(corpus.encoded(photo, "PNG"))
    listing = list_source(str(tmp_path))
    opened, whole = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(1) or whole(*args, **kwargs))
    part = decode_part(Origin(kind="folder", root=listing.root), listing.items, 0)
    assert part.stop == 3 and len(opened) == 3
    assert np.array_equal(part.groups[0].pixels[2], np.asarray(photo))
