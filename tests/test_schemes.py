"""The contract every scheme keeps, and how schemes are saved and loaded."""

import pytest
import torch

from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme


@pytest.fixture
def learned() -> LearnedScheme:
    torch.manual_seed(0)
    config = UNetConfig(widths=(4, 8, 8), head="contrast", top_skip=False, field=1)
    return LearnedScheme(UNet(config), training={"seed": 0})


def test_learned_scheme_survives_saving(learned, tiles, tmp_path):
    learned.save(tmp_path / "scheme.safetensors")
    again = load_scheme(tmp_path / "scheme.safetensors")
    difference = learned.protect(tiles[:8]).int() - again.protect(tiles[:8]).int()
    assert difference.abs().max() <= 2  # weights are kept in float16
    assert (tmp_path / "scheme.safetensors").stat().st_mode & 0o077 == 0


def test_damaged_file_is_refused_in_one_sentence(learned, tmp_path):
    path = tmp_path / "scheme.safetensors"
    learned.save(path)
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(UsageError, match="SHA-256"):
        load_scheme(path)


def test_unknown_scheme_names_the_known_ones():
    with pytest.raises(UsageError, match="there is no scheme 'nothing'"):
        load_scheme("nothing")


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 9)])
def test_learned_scheme_keeps_size_and_type(learned, photograph, size):
    out = learned.protect(photograph[None, :, : size[0], : size[1]])
    assert out.dtype == torch.uint8 and out.shape == (1, 3, *size)
