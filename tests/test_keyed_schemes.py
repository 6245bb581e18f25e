"""Every keyed scheme: undone bit for bit by its key and by no other, for any size; files, errors and statistics."""

import hashlib
import os
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.errors import UsageError
from imageveil.schemes import SCHEMES, load_scheme, pixelwise
from imageveil.schemes.blocks import block_places
from imageveil.schemes.catalogue import generate_scheme, write_key
from imageveil.schemes.keyed import KeyedScheme, SharedBlockScheme
from imageveil.schemes.keys import derive, key_choices, normals, permutations, signs

KEYED = sorted(name for name, kind in SCHEMES.items() if issubclass(kind, KeyedScheme))
UNTRAINED = sorted(name for name, kind in SCHEMES.items() if hasattr(kind, "generate"))
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def ids_for(images: torch.Tensor) -> list[str]:
    return [f"folder/{number}.png" for number in range(len(images))]


@pytest.mark.parametrize("name", KEYED)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(height=st.integers(1, 50), width=st.integers(1, 50), block=st.integers(1, 9), corner=st.integers(0, 400))
def test_a_key_undoes_its_scheme_and_no_other_key_does(name, height, width, block, corner, photograph_pair):
    kind = SCHEMES[name]
    block = block if kind.has_blocks else None
    images = photograph_pair[:, :, corner : corner + height, corner : corner + width]
    scheme, ids = kind(KEY, block=block), ids_for(images)
    protected = scheme.protect(images, ids=ids)
    assert protected.dtype == torch.uint8
    assert protected.shape[-2:] == (-(-height // scheme.block) * scheme.block, -(-width // scheme.block) * scheme.block)
    assert torch.equal(scheme.reveal(protected, (height, width), ids), images)
    if scheme.key_bits(height, width) > 64:
        assert not torch.equal(kind(OTHER, block=block).reveal(protected, (height, width), ids), images)
        assert not torch.equal(protected[..., :height, :width], images)


@pytest.fixture(scope="session")
def photograph_pair(photograph) -> torch.Tensor:
    """Two different real images, uint8 (2, 3, 512, 512)."""
    return torch.stack([photograph, photograph.flip(2)])


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_scheme_is_the_same_after_saving_and_in_other_batches(name, tiles, tmp_path):
    scheme, _ = write_key(name, tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    ids = ids_for(tiles)
    protected = scheme.protect(tiles, ids=ids)
    assert torch.equal(load_scheme(tmp_path / "key").protect(tiles, ids=ids), protected)
    assert torch.equal(scheme.protect(tiles[100:103], ids=ids[100:103]), protected[100:103])
    assert protected.shape == tiles.shape and protected.dtype == torch.uint8
    strided = tiles.to(memory_format=torch.channels_last)
    assert torch.equal(scheme.protect(strided, ids=ids), protected)
    assert scheme.protect(tiles[:0], ids=[]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", KEYED)
def test_plain_images_are_left_alone(name, tiles):
    before = tiles.clone()
    scheme = SCHEMES[name](KEY)
    scheme.reveal(scheme.protect(tiles, ids=ids_for(tiles)), None, ids_for(tiles))
    assert torch.equal(tiles, before)


@pytest.mark.parametrize("name", KEYED)
def test_a_key_file_holds_the_master_key_alone(name, tmp_path):
    tensors, metadata = SCHEMES[name](KEY).state()
    assert list(tensors) == ["key"] and bytes(tensors["key"].tolist()) == KEY
    assert set(metadata) == {"version", "parameters"}


@pytest.mark.parametrize("name", [name for name in KEYED if issubclass(SCHEMES[name], SharedBlockScheme)])
def test_large_images_and_tiles_agree_with_the_whole(name, photograph):
    scheme = SCHEMES[name](KEY)
    large = photograph.repeat(1, 2, 3)[None]  # 1024x1536: more than `LARGE` pixels
    protected = scheme.protect(large)
    tile = scheme.protect(large[..., 4:104, 8:72])
    assert torch.equal(protected[..., 4:104, 8:72], tile)
    assert torch.equal(scheme.reveal(protected), large)


def test_padding_repeats_the_last_row_and_column(photograph):
    image = photograph[None, :, :5, :6]
    padded = SCHEMES["block-permute"](KEY, block=4)
    out = padded.reveal(padded.protect(image))[0]
    assert torch.equal(out[:, 5], out[:, 4]) and torch.equal(out[:, 7], out[:, 4])
    assert torch.equal(out[:, :, 6], out[:, :, 5]) and torch.equal(out[:, :, 7], out[:, :, 5])


def test_a_key_file_replaces_none_and_follows_no_link(tmp_path):
    scheme = SCHEMES["tanaka"].generate()
    scheme.save(tmp_path / "key", replace=False)
    kept = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        SCHEMES["tanaka"].generate().save(tmp_path / "key", replace=False)
    assert (tmp_path / "key").read_bytes() == kept
    (tmp_path / "theirs").write_bytes(b"")
    for name in ("key.tmp", "link"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
    scheme.save(tmp_path / "key")
    scheme.save(tmp_path / "link")
    assert (tmp_path / "theirs").read_bytes() == b"" and not (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.tmp", "link", "theirs"]


def test_names_that_are_not_utf8_have_keys_too(tiles):
    ids = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe8.png")]
    scheme = SCHEMES["pixel-different"].generate()
    protected = scheme.protect(tiles[:1].expand(2, -1, -1, -1), ids=ids)
    assert not torch.equal(protected[0], protected[1])
    assert torch.equal(scheme.reveal(protected, None, ids), tiles[:1].expand(2, -1, -1, -1))


def test_keys_do_not_depend_on_the_locale(monkeypatch):
    expected = derive(KEY, "pixel-different/32x32/café.png")
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("latin-1", "surrogateescape"))
    assert derive(KEY, "pixel-different/32x32/café.png") == expected


@pytest.mark.parametrize(("name", "method"), [("tanaka", "place_map"), ("pixel-same", "key_size")])
def test_the_sizes_used_last_are_kept(name, method, tiles, monkeypatch):
    scheme, laid_out = SCHEMES[name](KEY), []
    home = SCHEMES[name] if name == "tanaka" else pixelwise
    whole = getattr(home, method)
    monkeypatch.setattr(home, method, lambda *args: laid_out.append(args[-1]) or whole(*args))
    for width in (4, 8, 12, 16, 4, 20, 4, 8):
        scheme.protect(tiles[:1, ..., :width])
    assert laid_out == [4, 8, 12, 16, 20, 8]


def test_keys_of_images_come_from_their_ids(tiles):
    scheme = SCHEMES["pixel-different"](KEY)
    same = tiles[:1].repeat(3, 1, 1, 1)
    protected = scheme.protect(same, ids=["a", "b", "a"])
    assert torch.equal(protected[0], protected[2]) and not torch.equal(protected[0], protected[1])
    assert torch.equal(scheme.reveal(protected[1:2], ids=["b"]), same[:1])
    views = [scheme.protect(same, ids=["a"] * 3, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert not torch.equal(views[0][0], views[0][1])  # a fresh key for every view


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: SCHEMES["pixel-different"](KEY).protect(x), "one id for each"),
        (lambda x: SCHEMES["pixel-different"](KEY).protect(x, ids=["a"]), "one id for each"),
        (lambda x: SCHEMES["tanaka"](KEY, block=0), "block size"),
        (lambda x: SCHEMES["pixel-same"](KEY, block=4), "no blocks"),
        (lambda x: SCHEMES["tanaka"](KEY[:31]), "32 bytes"),
        (lambda x: SCHEMES["tanaka"](KEY).reveal(x[..., :30]), "whole blocks"),
        (lambda x: SCHEMES["tanaka"](KEY).reveal(x, (33, 32)), "cannot hold"),
        (lambda x: SCHEMES["tanaka"].from_state({}, {"parameters": {}}), "no usable key"),
        (lambda x: generate_scheme("learned"), "made by training"),
        (lambda x: generate_scheme("nothing"), "choose one of"),
    ],
)
def test_wrong_use_is_one_sentence(make, message, tiles):
    with pytest.raises(UsageError, match=message) as caught:
        make(tiles)
    assert "\n" not in str(caught.value)


def test_a_classifier_leaves_no_use_for_a_block_size(tmp_path):
    made = generate_scheme("none")
    with pytest.raises(UsageError, match="none has no blocks; leave --block out"):
        write_key("none", tmp_path / "key", block=4, made=made)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_an_image_too_large_for_memory_costs_itself_only(photograph, tmp_path, monkeypatch, error):
    (tmp_path / "plain").mkdir()
    for name, side in (("a", 32), ("b", 64), ("c", 32)):
        pixels = photograph[:, :side, :side].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "plain" / f"{name}.png")
    scheme, _ = write_key("extended", tmp_path / "key")
    whole = type(scheme).place_map

    def place_map(self, height, width):
        if height > 32:
            raise error
        return whole(self, height, width)

    monkeypatch.setattr(type(scheme), "place_map", place_map)
    options = ProtectOptions(workers=0, quiet=True)
    done = protect_source(str(tmp_path / "plain"), tmp_path / "out", str(tmp_path / "key"), options)
    assert done.outcome.images == 2 and done.exit_code == 1
    assert done.outcome.skipped == {"b.png": "too large for this machine's memory under 'extended'"}
    monkeypatch.setattr(type(scheme), "place_map", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        protect_source(str(tmp_path / "plain"), tmp_path / "again", str(tmp_path / "key"), options)


@pytest.mark.parametrize(
    ("name", "block", "bits"),
    [
        ("tanaka", 4, 594.3),
        ("extended", 4, 38_330),
        ("compressible", 4, 717.4),
        ("compressible", 8, 150),
        ("compressible", 16, 31),
        ("pixel-same", None, 1024 * (3 + np.log2(6))),
        ("block-shuffle", 2, 28.8),
    ],
)
def test_key_bits_are_the_published_ones(name, block, bits, tmp_path):
    scheme, warning = write_key(name, tmp_path / "key", block=block)
    assert scheme.key_bits(32, 32) == pytest.approx(bits, abs=0.6)
    assert (warning is not None) == (bits < 128)
    if bits < 128:
        assert f"{bits:.0f} key bits" in warning


PINNED = {
    "block-ffx": ("8cef41daf5012aaa", "cb70bca7a8c08597", "893f02231ca87c0b"),
    "block-negative": ("8a77fe6139f8b0cd", "1c78ef4cec5e21d6", "38290cade274c9ee"),
    "block-permute": ("94d81e49c311caf8", "fe414190915e9e62", "f83218b7f784ddee"),
    "block-shuffle": ("c91d7db019a0c436", "6e4a4bc6b243367e", "11ff8ae934f62878"),
    "colour-order": ("fbc665ff5f0fed95", "ef8910ac9b511a2d", "6bb577b116533788"),
    "compressible": ("01b9ff0d4a03a57e", "3aa8b95e60bdf273", "487f862bd829ca15"),
    "extended": ("66d2aa711a83a94f", "693ba995a4ff2cd2", "2f57ef66064c0ea3"),
    "patch-permutation": ("7956e5ba498416f3", "7693e2a5af866bd6", "c2f10730589d0a94"),
    "pixel-different": ("0c1b3f37ed9a0ec2", "780347ee6a9b47d9", "862d921447cc9266"),
    "pixel-same": ("ef4db7f1ecdc4167", "662c3046a8a50d51", "564d2a2bcaa7465d"),
    "shuffle": ("2a1baec52ff87c9f", "5578c658435cb00b", "6f1c4632107b842d"),
    "tanaka": ("0193de79c0822780", "ac3a98d3c7f340f7", "da682eaaa21086ac"),
    "noise": ("3891b1b37b8ee307", "c9f00a36450ca7a4", None),
}
"""The first digits of the SHA-256 of one image protected at 32x32 and at 37x50, and the key's fingerprint."""


@pytest.mark.parametrize("name", [*KEYED, "noise"])
def test_derived_keys_are_what_they_were(name):
    """A later version must open today's key files and undo what they protected: fixed for good."""
    scheme, (*digests, fingerprint) = SCHEMES[name](KEY), PINNED[name]
    for (height, width), expected in zip([(32, 32), (37, 50)], digests, strict=True):
        image = (torch.arange(3 * height * width) * 2654435761 >> 7).to(torch.uint8).view(1, 3, height, width)
        protected = scheme.protect(image, ids=["dog/ü.png"])
        assert hashlib.sha256(protected.numpy().tobytes()).hexdigest()[:16] == expected
    assert getattr(scheme, "fingerprint", None) == fingerprint


def test_permutations_are_uniform():
    """Chi-squared over all 24 orders of 4 places: 23 degrees of freedom, mean 23, deviation 6.8."""
    drawn = permutations(KEY, "test", 24_000, 4)
    counts = np.bincount(drawn @ np.array([64, 16, 4, 1]), minlength=256)
    counts = counts[counts > 0]
    assert len(counts) == 24 and ((counts - 1000) ** 2 / 1000).sum() < 60
    large = permutations(KEY, "large", 2000, 96)
    assert (np.sort(large, axis=1) == np.arange(96)).all()
    # Every value is at every place equally often, 20.8 times on average: 95 * 95 degrees of freedom.
    places = np.stack([np.bincount(column, minlength=96) for column in large.T])
    assert abs(((places - 2000 / 96) ** 2 / (2000 / 96)).sum() - 95 * 95) < 6 * np.sqrt(2 * 95 * 95)


def test_signs_choices_and_normals_follow_theory():
    assert abs(signs(KEY, "test", 100, 1000).mean() - 0.5) < 5 * 0.5 / 100_000**0.5
    counts = np.bincount(key_choices(KEY, "test", 60_000, 6), minlength=6)
    assert len(counts) == 6 and ((counts - 10_000) ** 2 / 10_000).sum() < 30
    values = normals(KEY, "test", 40_000)
    assert abs(values.mean()) < 0.025 and abs(values.std() - 1) < 0.02
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.012


def test_half_of_everything_is_reversed(tiles):
    scheme = SCHEMES["extended"](KEY)
    assert abs(scheme.key_arrays(32, 32)[1].mean() - 0.5) < 5 * 0.5 / 6144**0.5
    flips, swaps = SCHEMES["pixel-same"](KEY).key_masks(128, 128)
    assert abs((flips == 255).float().mean() - 0.5) < 5 * 0.5 / (3 * 128**2) ** 0.5
    assert set(swaps.unique().tolist()) == {0, 255}
    negated = (SCHEMES["block-negative"](KEY).protect(tiles) != tiles).float().mean()
    assert float(negated) == 0.5  # a byte never equals its negative
    turns, colours = SCHEMES["compressible"](KEY).key_arrays(256, 256)[1::2]
    for codes, options in ((turns, 8), (colours, 6)):
        counts = np.bincount(codes, minlength=options)
        assert len(counts) == options and ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 35


def test_blocks_are_in_raster_order_and_bytes_in_row_column_channel_order():
    places = block_places(4, 6, 2)
    assert places.shape == (6, 12)
    # Block 1 starts at row 0, column 2; its first pixel's colours lie 24 bytes apart.
    assert places[1].tolist() == [2, 26, 50, 3, 27, 51, 8, 32, 56, 9, 33, 57]
