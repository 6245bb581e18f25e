"""The controls do what they are there for."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from imageveil.deploy.bulk import ProtectOptions, protect_source
from imageveil.errors import UsageError
from imageveil.networks.vgg import QuickNet
from imageveil.schemes import SCHEMES, load_scheme

KEY = bytes(range(32))


def test_none_returns_the_images(tiles):
    assert torch.equal(SCHEMES["none"]().protect(tiles), tiles)


def test_noise_is_uniform_and_independent_of_the_images(tiles):
    noise = SCHEMES["noise"](KEY).protect(tiles)
    counts = torch.bincount(noise.flatten().int(), minlength=256).double()
    expected = noise.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * (2 * 255) ** 0.5
    correlation = np.corrcoef(noise.flatten().numpy(), tiles.flatten().numpy())[0, 1]
    assert abs(correlation) < 5 / noise.numel() ** 0.5
    drawn = [SCHEMES["noise"](KEY).protect(tiles, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_shuffle_moves_whole_pixels(tiles):
    out = SCHEMES["shuffle"](KEY).protect(tiles[:1])
    before, after = (sorted(map(tuple, x[0].flatten(1).T.tolist())) for x in (tiles[:1], out))
    assert before == after


def test_block_permute_moves_whole_blocks(tiles):
    out = SCHEMES["block-permute"](KEY).protect(tiles[:1])
    before, after = (
        sorted(map(tuple, x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(64, 48).tolist()))
        for x in (tiles[:1], out)
    )
    assert before == after


def test_colour_order_is_one_order_for_all_pixels_and_never_the_plain_one(tiles):
    orders = set()
    for number in range(40):
        scheme = SCHEMES["colour-order"](bytes([number] * 32))
        out = scheme.protect(tiles[:4])
        found = [o for o in itertools.permutations(range(3)) if torch.equal(out, tiles[:4, list(o)])]
        assert len(found) == 1 and found[0] != (0, 1, 2)
        orders.add(found[0])
    assert len(orders) == 5


def test_blur_is_the_gaussian_of_scipy(photograph):
    from scipy.ndimage import gaussian_filter

    plain = photograph[None, :, 100:140, 200:260]
    out = SCHEMES["blur"]().protect(plain)
    oracle = gaussian_filter(plain.double().numpy(), (0, 0, 2, 2), mode="nearest")
    assert np.abs(out.double().numpy() - oracle).max() < 0.51 + 1e-3
    assert SCHEMES["blur"]().protect(plain[..., :2, :3]).shape == (1, 3, 2, 3)


def test_random_conv_fills_eight_bits_without_clipping_much(tiles):
    for key in (KEY, bytes(32), bytes([7] * 32)):
        out = SCHEMES["random-conv"](key).protect(tiles)
        assert (out.float().std((0, 2, 3)) > 15).all()
        assert ((out == 0) | (out == 255)).float().mean() < 0.05


def test_class_shows_the_predicted_class_and_nothing_else(tiles, tmp_path):
    torch.manual_seed(0)
    arguments = {"classes": 5, "widths": [4, 8, 8]}
    network = QuickNet(**arguments)
    network.whiten(tiles.float() / 255)
    scheme = SCHEMES["class"](network, {"network": "quick", "arguments": arguments})
    out = scheme.protect(tiles)
    predicted = network(tiles.float() / 255).argmax(1)
    assert out.shape == tiles.shape and len(predicted.unique()) > 1
    for label in predicted.unique():
        assert (
            out[predicted == label] == scheme.pattern(int(label)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        ).all()
    scheme.save(tmp_path / "class")
    assert torch.equal(load_scheme(tmp_path / "class").protect(tiles), out)
    with pytest.raises(UsageError, match="do not fit"):
        SCHEMES["class"].from_state({}, {"architecture": {"network": "quick", "arguments": arguments}})


def test_class_leaves_out_images_that_its_classifier_does_not_take(photograph, tmp_path):
    arguments = {"classes": 5, "widths": [4, 8, 8]}
    SCHEMES["class"](QuickNet(**arguments), {"network": "quick", "arguments": arguments}).save(tmp_path / "class")
    (tmp_path / "plain").mkdir()
    for name, side in (("a", 16), ("b", 15), ("c", 32)):
        pixels = photograph[:, :32, :side].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "plain" / f"{name}.png")
    options = ProtectOptions(workers=0, quiet=True)
    done = protect_source(str(tmp_path / "plain"), tmp_path / "out", str(tmp_path / "class"), options)
    assert done.outcome.images == 2 and done.exit_code == 1
    assert done.outcome.skipped == {"b.png": "too small: the classifier of 'class' needs 16 pixels on a side"}
    # Where no image can be left out, that is wrong use.
    with pytest.raises(UsageError, match="too small"):
        load_scheme(tmp_path / "class").protect(photograph[None, :, :15, :15])
