"""Measures against independent definitions: scikit-image for SSIM and PSNR, scipy for filters, loops for the rest."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from imageveil.audit import metrics
from imageveil.audit.intervals import bootstrap, percentile, wilson
from imageveil.audit.leakage import measure
from imageveil.audit.reidentification import MATCHERS, blur, luminance, reid_top1, reid_within
from imageveil.errors import UsageError

SIZES = [(7, 7), (7, 12), (32, 32), (33, 47), (96, 96), (300, 200)]


def degraded(image: torch.Tensor, kind: str) -> torch.Tensor:
    """A uint8 image with something done to it."""
    noise = torch.randint(-40, 41, image.shape, generator=torch.Generator().manual_seed(0))
    out = {
        "noise": (image.int() + noise).clamp(0, 255),
        "negative": 255 - image.int(),
        "flat": torch.full_like(image, 255).int(),
        "shifted": image.roll(3, -1).int(),
        "same": image.int(),
    }[kind]
    return out.to(torch.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["noise", "negative", "flat", "shifted", "same"])
def test_ssim_is_that_of_scikit_image(photograph, size, kind):
    # The second window is almost black sky, where differences of squares lose most.
    for top, left in ((100, 150), (0, 300)):
        plain = photograph[:, top : top + size[0], left : left + size[1]]
        other = degraded(plain, kind)
        expected = structural_similarity(plain.numpy(), other.numpy(), channel_axis=0)
        assert metrics.ssim(plain[None], other[None]).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_ssim_of_floats(photograph, size):
    plain = photograph[:, : size[0], : size[1]]
    x, y = plain.float() / 255, degraded(plain, "noise").float() / 255
    expected = structural_similarity(x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=1.0)
    assert metrics.ssim(x[None], y[None]).item() == pytest.approx(expected, abs=1e-4)
    assert metrics.ssim(x[None].double(), y[None].double()).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_of_saturated_images():
    plain = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    other = plain.clone()
    other[..., ::2] = 254
    expected = structural_similarity(plain[0].numpy(), other[0].numpy(), channel_axis=0)
    assert metrics.ssim(plain, other).item() == pytest.approx(expected, abs=1e-4)


def test_a_negative_is_recognised_by_either_sign(tiles):
    # Exact but for the stabilising constants: the negative of the negative is the image.
    assert metrics.ssim_either_sign(tiles, 255 - tiles).min() == pytest.approx(1, abs=1e-4)
    assert metrics.ssim(tiles, 255 - tiles).mean() < 0


def test_images_too_small_or_unequal_are_refused(tiles):
    with pytest.raises(UsageError, match="7x7"):
        metrics.ssim(tiles[..., :6], tiles[..., :6])
    with pytest.raises(UsageError, match="cannot compare"):
        metrics.squared_error(tiles, tiles[:3])
    with pytest.raises(UsageError, match="cannot compare"):
        metrics.ssim(tiles[:0], tiles[:0])


def test_squared_error_variance_and_psnr(tiles):
    other = degraded(tiles, "noise")
    x, y = tiles.double().numpy() / 255, other.double().numpy() / 255
    assert metrics.variance(tiles) == pytest.approx(((x - x.mean(0)) ** 2).mean(), rel=1e-5)
    mean_image = (tiles.float().mean(0, keepdim=True) / 255).expand(len(tiles), -1, -1, -1)
    assert metrics.mse_var(tiles, mean_image).mean() == pytest.approx(1, abs=1e-4)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)]
    assert torch.allclose(metrics.psnr(tiles, other).double(), torch.tensor(expected, dtype=torch.float64), atol=1e-3)
    assert metrics.psnr(tiles, tiles).tolist() == [100.0] * len(tiles)


def test_perceptual_distance_is_zero_for_equals_and_grows(tiles):
    assert metrics.perceptual(tiles[:4], tiles[:4]).abs().max() == 0
    near = metrics.perceptual(tiles[:4], degraded(tiles[:4], "shifted"))
    far = metrics.perceptual(tiles[:4], degraded(tiles[:4], "negative"))
    assert (near > 0).all() and far.mean() > near.mean()


@pytest.mark.parametrize(("sigma", "order"), [(2.0, (0, 0)), (0.7, (0, 1)), (0.7, (1, 0))])
@pytest.mark.parametrize("size", [(7, 7), (32, 32), (40, 90)])
def test_filters_are_those_of_scipy(photograph, sigma, order, size):
    grey = luminance(photograph[None, :, : size[0], : size[1]].float() / 255)
    expected = ndimage.gaussian_filter(grey[0].double().numpy(), sigma, order=order)
    assert np.abs(blur(grey, sigma=sigma, order=order)[0].numpy() - expected).max() < 1e-5


def slow_score(name: str, shown: np.ndarray, plain: np.ndarray) -> float:
    """The matchers once more, image by image."""

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    if name == "squared_error":
        return -float(((shown - plain) ** 2).sum())
    if name == "correlation":
        return abs(correlation(shown, plain))
    grey = [np.tensordot([0.299, 0.587, 0.114], image, 1) for image in (shown, plain)]
    if name == "high_pass":
        return abs(correlation(*(image - ndimage.gaussian_filter(image, 2) for image in grey)))
    return correlation(*(ndimage.gaussian_gradient_magnitude(image, 0.7) for image in grey))


@pytest.mark.parametrize("name", list(MATCHERS))
def test_matchers_against_slow_ones(tiles, name):
    plain, shown = tiles[100:120], degraded(tiles[100:120], "shifted")
    x, y = plain.double().numpy() / 255, shown.double().numpy() / 255
    hits = [
        np.argmax([slow_score(name, shown_one, candidate) for candidate in x]) == i for i, shown_one in enumerate(y)
    ]
    assert reid_top1(plain, shown).rates[name] == pytest.approx(np.mean(hits))


def test_reidentification_finds_what_each_matcher_is_there_for(faces):
    labels = torch.zeros(len(faces), dtype=torch.long)
    negative = reid_within(faces, 255 - faces, labels)
    assert negative.rate == 1 and negative.rates["squared_error"] < 0.2
    grey = luminance(faces.float() / 255)
    edges = (grey - blur(grey, sigma=2.0) + 0.5).clamp(0, 1)
    drawing = ((1 - edges) * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    assert reid_within(faces, drawing, labels).best in ("high_pass", "correlation", "gradient")
    assert reid_within(faces, drawing, labels).rate > 0.95


def test_reidentification_of_nothing_is_the_floor(faces):
    grey = torch.full_like(faces, 128)
    result = reid_top1(faces, grey, candidates=50)
    assert result.queries == 100 and result.candidates == 50 and result.floor == 0.02
    assert all(rate == pytest.approx(0.02) for rate in result.rates.values())
    # The best of four matchers, each of which may be lucky.
    assert result.interval == wilson(100 * result.rate, 100, best_of=4)


def test_within_class_sets_and_averaging(tiles):
    # 200 of class 0 make two sets of 100; 30 of class 1 one of 30; the single image of class 2 does not count.
    labels = torch.tensor([0] * 200 + [1] * 30 + [2])
    plain, shown = tiles[:231], tiles[:231].clone()
    shown[labels == 0] = 0
    result = reid_within(plain, shown, labels)
    # An average of two rates varies as if of so many equal queries.
    assert result.queries == pytest.approx(4 / (1 / 200 + 1 / 30)) and result.candidates == 65
    assert result.floor == pytest.approx((1 / 100 + 1 / 30) / 2)
    assert result.rates["correlation"] == pytest.approx((0.01 + 1) / 2, abs=0.03)
    # Among three there is little to choose: a class of so few does not count beside larger ones, and alone it does.
    few = torch.tensor([0] * 30 + [1] * 3)
    assert reid_within(plain[:33], plain[:33], few).candidates == 30
    assert reid_within(plain[30:33], plain[30:33], few[30:]).candidates == 3
    with pytest.raises(UsageError, match="at least two"):
        reid_within(plain[:1], plain[:1], labels[:1])


def test_intervals():
    # Newcombe 1998, Table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    # The bounds are the rates from which the one seen lies as many of their own deviations away.
    for best_of, deviations in ((1, 1.959964), (4, 2.497705)):
        for bound in wilson(81, 263, best_of=best_of):
            assert abs(81 / 263 - bound) / (bound * (1 - bound) / 263) ** 0.5 == pytest.approx(deviations, abs=1e-5)
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    low, high = bootstrap(values, seed=3)
    assert (low, high) == bootstrap(values, seed=3)
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 2000**0.5, rel=0.1)
    assert percentile(torch.arange(101.0), 0.95) == pytest.approx(95)


def test_measure_crops_padding_and_names_the_matcher(faces):
    labels = torch.arange(len(faces)) % 4
    padded = torch.nn.functional.pad(255 - faces, (0, 3, 0, 2))
    result = measure(faces, padded, labels, perceptual=True)
    assert result.n == len(faces) and len(result.ssim) == len(faces)
    assert result.metrics["reid_within"] == 1 and result.best_matcher["reid_within"] == "correlation"
    assert result.metrics["reid_within_candidates"] == 25 and result.floors["reid_within"] == 1 / 25
    assert result.metrics["ssim"] < 0 < result.metrics["ssim_either_sign"] and result.metrics["perceptual"] > 0
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] + 1e-9 and result.metrics[name] <= high + 1e-9, name
    for name, values, share in (
        ("ssim_p95", result.ssim, 95),
        ("psnr_p95", metrics.psnr(faces, 255 - faces), 95),
        ("mse_var_p05", metrics.mse_var(faces, 255 - faces), 5),
    ):
        assert result.metrics[name] == pytest.approx(np.percentile(values.double().numpy(), share))
    assert "reid_within" not in measure(faces, padded).metrics
    with pytest.raises(UsageError, match="8-bit"):
        measure(faces.float(), faces, labels)
