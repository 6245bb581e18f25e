"""Each algorithm on examples worked by hand and published, and against an independent implementation."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from imageveil.schemes import SCHEMES
from imageveil.schemes.blocks import block_places, place_map
from imageveil.schemes.compressible import quarter_turns, scramble_blocks
from imageveil.schemes.feistel import byte_permutation, encrypt_number, published_table
from imageveil.schemes.pixelwise import ORDERS, change_pixels, key_masks
from imageveil.schemes.tanaka import learnable_encryption

KEY = bytes(range(32))


def image(*rows: list[int]) -> torch.Tensor:
    """A 1-pixel image from its colours."""
    return torch.tensor(rows, dtype=torch.uint8).view(-1, 3, 1, 1)


def test_learnable_encryption_by_hand():
    """Bytes 12 A7 F0: halves [2, 7, 0, 1, 10, 15], reversed at {0, 2}: [13, 7, 15, 1, 10, 15], gathered."""
    order, reverse = [4, 0, 5, 2, 1, 3], [True, False, True, False, False, False]
    out = learnable_encryption(block_places(1, 1, 1), order, reverse).apply(image([0x12, 0xA7, 0xF0]))
    # Gathered: [10, 13, 15, 15, 7, 1]; low halves 10, 13, 15 with high halves 15, 7, 1.
    assert out.flatten().tolist() == [0xFA, 0x7D, 0x1F]


def test_learnable_encryption_as_the_first_code_does_it():
    """The code reverses the same places again after the gather: F5 7D 10."""
    order, reverse = [4, 0, 5, 2, 1, 3], torch.tensor([True, False, True, False, False, False])
    places = learnable_encryption(block_places(1, 1, 1), order, reverse)
    places = replace(places, negated=places.negated ^ reverse)
    assert places.apply(image([0x12, 0xA7, 0xF0])).flatten().tolist() == [0xF5, 0x7D, 0x10]


def test_extended_encrypts_blocks_by_position_and_then_moves_them(photograph):
    """A plain loop over the blocks."""
    scheme, plain = SCHEMES["extended"](KEY), photograph[:, 100:132, 200:240]
    orders, reverse, blocks = scheme.key_arrays(32, 40)
    encrypted = []
    for number in range(80):
        row, column = 4 * (number // 10), 4 * (number % 10)
        block = plain[:, row : row + 4, column : column + 4].permute(1, 2, 0).flatten().numpy()
        halves = np.concatenate([block & 15, block >> 4])
        halves = np.where(reverse[number], 15 - halves, halves)[orders[number]]
        encrypted.append((halves[:48] | halves[48:] << 4).reshape(4, 4, 3))
    out = scheme.protect(plain[None])[0].permute(1, 2, 0).numpy()
    for number in range(80):
        row, column = 4 * (number // 10), 4 * (number % 10)
        assert (out[row : row + 4, column : column + 4] == encrypted[blocks[number]]).all()


def test_pixel_based_encryption_by_hand():
    """(10, 200, 30), r = (1, 0, 1) -> (245, 200, 225); order 4 is BRG -> (225, 245, 200)."""
    signs = np.array([1, 0, 1], dtype=np.uint8).reshape(1, 3, 1, 1)
    keys = key_masks(signs, np.array([[[4]]], dtype=np.uint8))
    out = change_pixels(image([10, 200, 30]), *keys)
    assert out.flatten().tolist() == [225, 245, 200]
    assert change_pixels(out, *keys, undo=True).flatten().tolist() == [10, 200, 30]


@pytest.mark.parametrize(("code", "named"), list(enumerate(["RGB", "RBG", "GRB", "GBR", "BRG", "BGR"])))
def test_colour_orders_are_the_named_ones(code, named):
    keys = key_masks(np.zeros((1, 3, 1, 1), dtype=np.uint8), np.array([[[code]]], dtype=np.uint8))
    out = change_pixels(image([1, 2, 3]), *keys).flatten().tolist()
    assert "".join(" RGB"[value] for value in out) == named
    assert [1 + place for place in ORDERS[code]] == out


def test_block_scrambling_by_hand():
    """Two 2x2 blocks change places; the first is turned by a quarter and negated, the second mirrored, BGR."""
    plain = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4)
    args = ([1, 0], [1, 4], [True, False], [0, 5])
    out = scramble_blocks(2, 4, 2, *map(np.array, args)).apply(plain)[0]
    # Red of block 1 is [[2, 3], [6, 7]]; a quarter turn counter-clockwise gives [[3, 7], [2, 6]].
    assert (255 - out[0, :, :2].int()).tolist() == [[3, 7], [2, 6]]
    # Red of the second place is blue of block 0, [[16, 17], [20, 21]], mirrored.
    assert out[0, :, 2:].tolist() == [[17, 16], [21, 20]]


def test_the_eight_turns_differ_and_are_a_group():
    turns = quarter_turns(3)
    assert len({tuple(turn) for turn in turns}) == 8
    assert all(tuple(a[b]) in {tuple(turn) for turn in turns} for a in turns for b in turns)
    assert turns[1].reshape(3, 3).tolist() == np.rot90(np.arange(9).reshape(3, 3)).tolist()


def test_shuffle_negative_and_lookup_by_a_plain_loop(tiles):
    for name, per_block in {
        "block-shuffle": lambda s, x: x[s.key_order()],
        "block-negative": lambda s, x: np.where(s.place_map(4, 4).negated.view(3, 16).T.flatten().numpy(), 255 - x, x),
        "block-ffx": lambda s, x: np.where(s.chosen.numpy(), s.table.numpy()[x], x),
    }.items():
        scheme = SCHEMES[name](KEY)
        out = scheme.protect(tiles[:1])[0].permute(1, 2, 0).numpy()
        plain = tiles[0].permute(1, 2, 0).numpy()
        for row in range(0, 32, 4):
            for column in range(0, 32, 4):
                block = per_block(scheme, plain[row : row + 4, column : column + 4].reshape(48))
                assert (out[row : row + 4, column : column + 4] == block.reshape(4, 4, 3)).all(), name


def test_the_published_table():
    table = published_table(b"password")
    assert table[:4].tolist() == [355, 522, 858, 133]
    assert len(set(table.tolist())) == 256 and table.max() < 1000


def test_format_preserving_encryption_is_a_permutation():
    assert sorted(byte_permutation(KEY).tolist()) == list(range(256))
    assert sorted(encrypt_number(KEY, n, radix=10, length=3) for n in range(1000)) == list(range(1000))
    assert (byte_permutation(KEY) != byte_permutation(bytes(32))).any()


def test_the_published_form_of_ffx_keeps_three_digits(tiles):
    scheme, table = SCHEMES["block-ffx"](KEY), published_table(b"password")
    out = scheme.protect_published(tiles[:4], b"password")
    assert out.shape == (4, 3, 32, 32) and out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 1
    digits = (out * table.max()).round().long()
    places = scheme.key_places(32, 32)
    assert torch.equal(digits[:, ~places], tiles[:4][:, ~places].long())
    assert torch.equal(digits[:, places], torch.from_numpy(table)[tiles[:4][:, places].long()])


def test_statistics_of_places_against_theory(tiles):
    """What a scheme cannot hide: block-shuffle and extended keep the values; negation mirrors them."""

    def count(x: torch.Tensor, low: int = 256) -> list[int]:
        return torch.bincount(x.flatten().int(), minlength=low).tolist()

    for name in ("block-shuffle", "shuffle", "block-permute", "patch-permutation"):
        assert count(SCHEMES[name](KEY).protect(tiles)) == count(tiles), name
    # Negated with probability one half, every value v is as frequent as 255 - v.
    out = SCHEMES["pixel-different"](KEY).protect(tiles, ids=[str(n) for n in range(256)])
    histogram = torch.tensor(count(out), dtype=torch.float64)
    difference = (histogram - histogram.flip(0))[:128]
    assert (difference / (histogram + histogram.flip(0)).clamp(min=1).sqrt()[:128]).abs().max() < 5


@pytest.fixture(scope="module")
def scramblekit() -> ModuleType:
    """The independent implementation, for the tests that ask for it alone."""
    return pytest.importorskip("scramblekit.scramble", reason="the independent implementation is not installed")


def channels_last(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def test_learnable_encryption_against_scramblekit(scramblekit, tiles):
    """The oracle reverses the places {j : K[j] > 48} before and after the gather."""
    order = scramblekit.paper_le_keys()[0]
    places = learnable_encryption(block_places(32, 32, 4), order, order > 48)
    again = place_map(block_places(32, 32, 4), block_places(32, 32, 4), False).index.view(-1)  # the identity
    assert torch.equal(again, torch.arange(3072))
    after = learnable_encryption(block_places(32, 32, 4), np.arange(96), order > 48).negated
    out = replace(places, negated=places.negated ^ after).apply(tiles)
    assert (channels_last(out) == scramblekit.LE(key="paper")(channels_last(tiles))).all()


def test_block_scrambling_against_scramblekit(scramblekit, tiles):
    scheme = SCHEMES["block-permute"](KEY)
    order = scheme.place_map(32, 32).index.view(3, 32, 32)[0, ::4, ::4]
    blocks = (order // 128 * 8 + order % 32 // 4).flatten().numpy()
    oracle = scramblekit.BlockShuffle(key=blocks)(channels_last(tiles))
    assert (channels_last(scheme.protect(tiles)) == oracle).all()


def test_compressible_against_scramblekit(scramblekit, tiles):
    """The oracle transforms blocks first and moves them last, and counts its codes in another way."""
    scheme = SCHEMES["compressible"](KEY)
    blocks, turns, negative, colours = scheme.key_arrays(32, 32)
    of_plain = np.argsort(blocks)
    turns, negative, colours = turns[of_plain], negative[of_plain], colours[of_plain]
    tables = scramblekit.ETC_CHANNEL_TABLES["permutation"].tolist()
    key = {
        "rotate": (turns + 3) % 4,
        "negaposi": 1 - negative,
        "reverse": np.where(turns >= 4, 1, 2),
        "channel": np.array([tables.index(ORDERS[code].tolist()) for code in colours]),
        "shuffle": blocks,
    }
    oracle = scramblekit.EtC(key=key, channel_mode="permutation")(channels_last(tiles))
    assert (channels_last(scheme.protect(tiles)) == oracle).all()


def test_pixel_based_encryption_against_scramblekit(scramblekit, tiles):
    scheme = SCHEMES["pixel-same"](KEY)
    flips, swaps = scheme.key_masks(32, 32)
    inverted = (flips[0] == 0).permute(1, 2, 0).flatten().numpy().astype(int)
    probe = change_pixels(image([0, 1, 2]).expand(1, 3, 32, 32).contiguous(), torch.zeros_like(flips), swaps)[0]
    tables = scramblekit.PE_CHANNEL_TABLES["permutation"].tolist()
    colours = np.array([tables.index(pixel) for pixel in probe.flatten(1).T.tolist()])
    oracle = scramblekit.PE(key=(inverted, colours), channel_mode="permutation")(channels_last(tiles))
    assert (channels_last(scheme.protect(tiles)) == oracle).all()
