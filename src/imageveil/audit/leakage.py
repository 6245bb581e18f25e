"""All measures of a set of shown images against the plain ones, with intervals: what a record holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imageveil.audit import metrics
from imageveil.audit.intervals import bootstrap, percentile
from imageveil.audit.reidentification import Reidentification, reid_top1, reid_within
from imageveil.errors import UsageError

PERCEPTUAL_IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What shown images give away.

    Attributes:
        n: number of images.
        metrics: figures by the names that records use: `ssim`, `psnr`, `mse_var`, `reid_top1`, `reid_within`, the same
            per matcher (`reid_within_gradient`, ...), the number of candidates (`reid_within_candidates`), and the
            worst twentieth of the images (`ssim_p95`, `psnr_p95`, `mse_var_p05`).
        intervals: 95 % intervals [low, high] by metric.
        best_matcher: which matcher gave `reid_top1` and `reid_within`.
        floors: what guessing reaches, 1 / candidates.
        ssim: SSIM of every image (N,), to order sheets by.
    """

    n: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    best_matcher: dict[str, str]
    floors: dict[str, float]
    ssim: Tensor


def measure(
    plain: Tensor, shown: Tensor, labels: Tensor | None = None, *, seed: int = 0, perceptual: bool = False
) -> Leakage:
    """Hold shown images (protected or reconstructed) against the plain ones.

    Args:
        plain: plain images, uint8 (N, 3, H, W).
        shown: what the viewer has, uint8, same order; padding below and to the right is cut off.
        labels: classes (N,), for re-identification within the class; None leaves `reid_within` out, and so do classes
            of one image each.
        seed: decides candidate sets and resampling.
        perceptual: add the perceptual distance, on the first 500 images (it costs more than all the rest).

    Raises:
        UsageError: images that are not 8-bit, of different number or smaller than the plain ones, or fewer than two.
    """
    if plain.dtype != torch.uint8 or shown.dtype != torch.uint8:
        raise UsageError(f"leakage is measured on 8-bit images; got {plain.dtype} and {shown.dtype}: round them first")
    shown = metrics.crop_to(shown, plain)
    metrics.check_pair(plain, shown)
    upright, negative = metrics.ssim_and_of_negative(plain, shown)
    values = {
        "ssim": upright,
        "psnr": metrics.psnr(plain, shown),
        "mse_var": metrics.mse_var(plain, shown),
        "ssim_either_sign": torch.maximum(upright, negative),
    }
    if perceptual:
        values["perceptual"] = metrics.perceptual(plain[:PERCEPTUAL_IMAGES], shown[:PERCEPTUAL_IMAGES])
    figures = {name: float(value.double().mean()) for name, value in values.items()}
    intervals = {name: list(bootstrap(value, seed=seed)) for name, value in values.items()}
    figures["ssim_p95"] = percentile(values["ssim"], 0.95)
    figures["psnr_p95"] = percentile(values["psnr"], 0.95)
    figures["mse_var_p05"] = percentile(values["mse_var"], 0.05)

    found: dict[str, Reidentification] = {"reid_top1": reid_top1(plain, shown, seed=seed)}
    if labels is not None and labels.bincount().max() > 1:
        found["reid_within"] = reid_within(plain, shown, labels, seed=seed)
    for name, result in found.items():
        figures[name] = result.rate
        figures |= {f"{name}_{matcher}": rate for matcher, rate in result.rates.items()}
        figures[f"{name}_candidates"] = result.candidates
        intervals[name] = list(result.interval)
    return Leakage(
        n=len(plain),
        metrics=figures,
        intervals=intervals,
        best_matcher={name: result.best for name, result in found.items()},
        floors={name: result.floor for name, result in found.items()},
        ssim=values["ssim"],
    )
