"""Adaptation networks: shapes, losses, and training one in front of a classifier."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from imageveil.audit.accuracy import published_adaptation
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.networks.adaptation import (
    Adapted,
    SpectralNormFilters,
    build_adaptation,
    permutation_penalty,
    smoothness,
)
from imageveil.presets.classifier import classifier_smoke
from imageveil.schemes import SCHEMES
from imageveil.training.classifier import (
    Protection,
    build_classifier,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from imageveil.training.device import open_device

ADAPTED = [("tanaka", "own", 32), ("tanaka", "le-adaptnet", 16), ("extended", "own", 16), ("pixel-same", "own", 32)]


@pytest.mark.parametrize(("scheme", "variant", "channels"), ADAPTED)
def test_features_have_the_size_of_the_image(scheme, variant, channels, tiles):
    network = build_adaptation(scheme, variant=variant)
    assert network(tiles[:8].float() / 255).shape == (8, channels, 32, 32) and network.channels == channels
    again = build_adaptation(scheme, variant=variant)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_schemes_without_one_and_wrong_sizes():
    assert build_adaptation("block-shuffle") is None
    with pytest.raises(UsageError, match="no adaptation network"):
        build_adaptation("extended", variant="le-adaptnet")
    with pytest.raises(UsageError, match="32x32"):
        build_adaptation("extended")(torch.zeros(1, 3, 40, 32))
    with pytest.raises(UsageError, match="images only"):
        build_classifier(replace(classifier_smoke(), network="vgg13"), 10, inputs=16)


@pytest.mark.parametrize(
    ("scheme", "block", "padded"), [("tanaka", 8, 40), ("extended", 8, 40), ("pixel-same", None, 36)]
)
def test_the_network_has_the_blocks_and_the_padded_size_of_the_key(scheme, block, padded, tiles):
    keyed = SCHEMES[scheme](bytes(32), block=block)
    network = published_adaptation(keyed, 36, seed=0)
    assert network.arguments["block"] == keyed.block and network.arguments["size"] == padded
    protected = keyed.protect(F.pad(tiles[:2], (0, 4, 0, 4)))
    assert network(protected.float() / 255).shape == (2, network.channels, padded, padded)


def test_a_scheme_without_an_adaptation_network_is_named():
    for scheme, label in ((SCHEMES["block-shuffle"](bytes(32)), "block-shuffle"), (None, "none")):
        with pytest.raises(UsageError, match=f"published with {label}"):
            published_adaptation(scheme, 32, seed=0)


def test_one_block_network_sees_blocks_only(tiles):
    """Features of a block depend on that block alone; with U the identity, for `extended` too."""
    images = tiles[:2].float() / 255
    changed = images.clone()
    changed[:, :, 8:12, 20:24] = 0
    for scheme in ("tanaka", "extended"):
        network = build_adaptation(scheme).eval()
        if scheme == "extended":
            network.mixing.data.copy_(torch.eye(64))
        differs = (network(images) != network(changed)).any(1).any(0)
        assert differs[8:12, 20:24].any()
        differs[8:12, 20:24] = False
        assert not differs.any()


def test_penalties_by_hand():
    assert permutation_penalty(torch.eye(5)[torch.randperm(5)]).item() == pytest.approx(0, abs=1e-7)
    # All entries 1 in 2x2: every row and column has L1 2 and L2 sqrt 2, over N^2 = 4.
    assert permutation_penalty(torch.ones(2, 2)).item() == pytest.approx(2 - 2**0.5)
    # One step of height 1 between two columns of a 2x2 map: two squared differences over four values.
    assert smoothness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).item() == pytest.approx(0.5)
    network = build_adaptation("extended").train()
    network(torch.rand(4, 3, 32, 32))
    with_batch = network.penalty()
    assert with_batch.requires_grad and with_batch > network.penalty() > 0
    assert build_adaptation("tanaka").penalty() is None


def test_filters_are_divided_by_their_largest_singular_value():
    filters = SpectralNormFilters(3, 32, 12)
    for _ in range(300):
        filters()
    largest = torch.linalg.matrix_norm(filters(), ord=2)
    torch.testing.assert_close(largest, torch.ones(3), atol=0.02, rtol=0)


@pytest.fixture(scope="module")
def two_photographs(tiles) -> ImageArrays:
    """256 real 32x32 images of two classes: tiles of the astronaut and of the coffee cup."""
    from skimage import data

    coffee = torch.from_numpy(data.coffee().copy()).permute(2, 0, 1)[:, :384, :320]
    cups = coffee.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
    images = torch.cat([tiles[:120], cups[:120]])
    labels = torch.arange(2).repeat_interleave(120)
    keys = [f"{n}.png" for n in range(240)]
    return ImageArrays(name="tiles", images=images, labels=labels, classes=["astronaut", "cup"], keys=keys)


@pytest.mark.parametrize("scheme", ["extended", "pixel-same", "pixel-different"])
def test_training_with_a_scheme_and_its_adaptation_network(scheme, two_photographs, tmp_path):
    keyed = SCHEMES[scheme](bytes(range(32)))
    config = replace(classifier_smoke(), epochs=8, batch=48, averaging=0.0)

    def protect(images, keys, generator):
        return keyed.protect(images, ids=keys, generator=generator)

    device = open_device("cpu", precision="float32")
    adaptation = build_adaptation(scheme)
    live = scheme != "pixel-different"
    network, _ = train_classifier(
        two_photographs,
        config,
        seed=0,
        device=device,
        protection=Protection(protect=protect, live=live),
        adaptation=adaptation,
    )
    assert isinstance(network, Adapted) == (adaptation is not None)
    predictions = predict(network, two_photographs, device=device, protect=protect)
    assert (predictions == two_photographs.labels).float().mean() > 0.6
    save_classifier(tmp_path / "network", network, config, two_photographs.classes)
    again, _ = load_classifier(tmp_path / "network")
    same = predict(again, two_photographs, device=device, protect=protect) == predictions
    assert same.float().mean() > 0.95  # weights are kept in float16
