"""The contract every scheme keeps, and how schemes are saved and loaded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.schemes import load_scheme
from imageveil.schemes.base import FORMAT, digest
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


KEY = {"key": torch.arange(32, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("name", "tensors", "metadata", "words"),
    [
        ("tanaka", KEY, [1], "damaged metadata"),
        ("tanaka", KEY, None, "damaged metadata"),
        ("tanaka", KEY, {"parameters": {"block": True}}, "block size"),
        ("tanaka", KEY, {"parameters": [4]}, "no parameters of tanaka"),
        ("tanaka", {"key": KEY["key"].float()}, {"parameters": {}}, "no usable key of tanaka"),
        ("noise", {"key": KEY["key"].float()}, {}, "no usable key of noise"),
        ("noise", {"key": KEY["key"][None]}, {}, "no usable key of noise"),
        ("noise", {"key": KEY["key"][:9]}, {}, "32 bytes"),
        ("noise", {"other": KEY["key"]}, {}, "no usable key of noise"),
        ("class", KEY, {"architecture": {"network": "resnet18", "arguments": {"classes": "many"}}}, "."),
        ("learned", KEY, {"architecture": {"widths": "abc"}}, "."),
        ("learned", KEY, {"architecture": {"widths": [4], "head": 7}}, "."),
    ],
)
def test_a_file_that_no_scheme_can_be_made_of_is_refused_in_one_sentence(tmp_path, name, tensors, metadata, words):
    if isinstance(metadata, dict):
        metadata = {**metadata, "sha256": digest(tensors)}
    header = {"imageveil": FORMAT, "scheme": name, "metadata": json.dumps(metadata)}
    save_file(tensors, tmp_path / "file", header)
    with pytest.raises(UsageError, match=words) as caught:
        load_scheme(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_unknown_scheme_names_the_known_ones():
    with pytest.raises(UsageError, match="there is no scheme 'nothing'"):
        load_scheme("nothing")


@pytest.mark.parametrize(
    ("name", "how"), [("learned", "train --data D --out RUN"), ("class", "keygen class FILE"), ("noise", "keygen")]
)
def test_a_kind_of_scheme_is_no_scheme_file_and_says_how_to_make_one(name, how):
    with pytest.raises(UsageError, match=f"{name!r} is no scheme file; make one with `imageveil {how}"):
        load_scheme(name)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 9)])
def test_learned_scheme_keeps_size_and_type(learned, photograph, size):
    out = learned.protect(photograph[None, :, : size[0], : size[1]])
    assert out.dtype == torch.uint8 and out.shape == (1, 3, *size)
