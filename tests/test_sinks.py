"""Files of protected images: lossless whichever way they are stored, and on disk before they count as written."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from imageveil.errors import RunError
from imageveil.images import pixels, png, sinks
from imageveil.images.png import encode_png, like_noise
from imageveil.images.sinks import encode, encode_for_disk, write_files


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def chunks(blob: bytes) -> list[bytes]:
    kinds, place = [], 8
    while place < len(blob):
        (length,) = struct.unpack(">I", blob[place : place + 4])
        kinds.append(blob[place + 4 : place + 8])
        place += length + 12
    assert place == len(blob), "bytes after the last chunk"
    return kinds


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (37, 50), (3, 30_000), (900, 700)])
def test_noise_is_stored_and_comes_back(shape):
    made = noise(*shape)
    blob = encode_png(made)
    with Image.open(io.BytesIO(blob)) as image:
        image.verify()  # the checksums
    with Image.open(io.BytesIO(blob)) as image:
        assert image.mode == "RGB" and not image.info and np.array_equal(np.asarray(image), made)
    assert set(chunks(blob)) == {b"IHDR", b"IDAT", b"IEND"}
    assert len(blob) <= made.size * 1.01 + shape[0] + 200
    assert like_noise(made) == (shape != (1, 1))
    assert (chunks(blob).count(b"IDAT") > 1) == (shape == (900, 700)), "one chunk a megabyte"


def test_what_can_be_compressed_is_compressed(photograph):
    photo = np.ascontiguousarray(photograph.permute(1, 2, 0).numpy())
    texture = np.tile(noise(64, 64), (6, 6, 1))  # what a scheme may make of a flat sky
    half = np.concatenate([noise(400, 400), np.full((400, 400, 3), 90, np.uint8)])
    for image in (photo, photo[:32, :32], texture, half):
        blob = encode_png(image)
        assert not like_noise(image) and len(blob) < 0.9 * image.size
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(blob))), image)


def test_large_images_are_compressed_band_by_band(photograph, monkeypatch):
    monkeypatch.setattr(png, "LARGE", 1000)
    photo = np.ascontiguousarray(photograph.permute(1, 2, 0).numpy())
    wide = np.tile(photo, (2, 3, 1))  # several bands
    texture = np.tile(noise(64, 64), (12, 12, 1))
    for image in (photo, wide, texture):
        blob = encode_png(image)
        assert len(blob) < 0.9 * image.size and set(chunks(blob)) == {b"IHDR", b"IDAT", b"IEND"}
        with Image.open(io.BytesIO(blob)) as checked:
            checked.verify()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(blob))), image)


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_what_is_written_in_pieces_is_what_is_encoded(kind, photograph, tmp_path, monkeypatch):
    monkeypatch.setattr(png, "LARGE", 1000)
    monkeypatch.setattr(sinks, "LARGE", 1000)
    plain = photograph.permute(1, 2, 0).numpy().copy()
    images = (plain, noise(*plain.shape[:2]))
    files = [(tmp_path / f"{number}", encode_for_disk(image, kind)) for number, image in enumerate(images)]
    assert isinstance(files[0][1], bytes) == (kind != "png")
    write_files(files)
    for (path, _), image in zip(files, images, strict=True):
        assert path.read_bytes() == encode(image, kind)


def test_large_arrays_hold_what_small_ones_hold(photograph, monkeypatch):
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    monkeypatch.setattr(pixels, "LARGE", 1000)
    monkeypatch.setattr(pixels, "STRIP", 512 * 37)
    taken = pixels.to_pixels(image)
    assert taken.flags.writeable and np.array_equal(taken, np.asarray(image))
    assert pixels.empty_pixels((2, 30, 50, 3)).shape == (2, 30, 50, 3)


@pytest.mark.parametrize("whole", [True, False])
def test_a_group_is_synced_before_its_names_appear(tmp_path, monkeypatch, whole):
    seen: list[tuple[str, int]] = []
    places = [tmp_path / "a" / f"{number}.png" for number in range(20)]

    def note(kind: str, result: bool) -> bool:
        seen.append((kind, sum(path.exists() for path in places)))
        return result

    monkeypatch.setattr(sinks, "sync_disk", lambda _: note("disk", whole))
    monkeypatch.setattr(sinks, "sync", lambda _: note("file", True))
    write_files((path, b"x") for path in places)
    assert [path.read_bytes() for path in places] == [b"x"] * 20
    if whole:
        assert seen == [("disk", 0), ("disk", 20)]
    else:
        assert seen == [("disk", 0), *[("file", 0)] * 20, ("disk", 20), ("file", 20)]


def test_a_fault_found_at_the_sync_leaves_nothing(tmp_path, monkeypatch):
    def fail(_: int) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks, "sync_disk", fail)
    with pytest.raises(RunError, match="No space left"):
        write_files((tmp_path / f"{number}.png", b"x") for number in range(20))
    assert list(tmp_path.iterdir()) == []


def test_this_system_syncs_a_disk_or_says_that_it_cannot(tmp_path):
    write_files((tmp_path / f"{number}.png", b"x") for number in range(20))
    assert len(list(tmp_path.iterdir())) == 20
