"""Losses of attacks that learn to reconstruct; every one takes float images (N, 3, H, W) in [0, 1]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.errors import UsageError
from imageveil.networks.feature_extractor import FeatureExtractor
from imageveil.training.device import Device
from imageveil.training.objectives import frozen

Loss = Callable[[Tensor, Tensor], Tensor]
"""(guess, plain) -> a scalar."""

WINDOW = 7
SSIM_WEIGHT, PERCEPTUAL_WEIGHT = 0.1, 0.1

LOSSES = ("mse", "mse-ssim", "sign-free", "perceptual")


def ssim(guess: Tensor, plain: Tensor) -> Tensor:
    """Structural similarity as scikit-image computes it by default, differentiable (Wang et al. 2004).

    7x7 uniform window, sample covariance, data range 1, windows over the border left out.

    Returns:
        float32 (N,), in [-1, 1].
    """
    # Variances do not depend on the origin; taken about mid-grey their float32 differences lose least.
    x, y = guess.float() - 0.5, plain.float() - 0.5
    mean_x, mean_y = _box(x), _box(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    variances = sample * (_box(x * x + y * y) - mean_x * mean_x - mean_y * mean_y)
    covariance = sample * (_box(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    upper = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    lower = (mean_x * mean_x + mean_y * mean_y + c1) * (variances + c2)
    return (upper / lower).mean(dim=(1, 2, 3))


def sign_free(guess: Tensor, plain: Tensor) -> Tensor:
    """Mean over images of min(l(x), l(1 - x)), l the squared error: an image or its negative will do."""
    errors = [(guess - wanted).square().mean(dim=(1, 2, 3)) for wanted in (plain, 1 - plain)]
    return torch.minimum(*errors).mean()


def make_loss(name: str, device: Device) -> Loss:
    """Build a loss by name.

    Args:
        name: `mse`; `mse-ssim`, the squared error + 0.1 (1 - SSIM); `sign-free`; or `perceptual`, the squared error +
            0.1 of the distance of relu1_2 features (Eq. 7 of the paper), which likes texture where `mse` blurs.
        device: where it is computed.

    Raises:
        UsageError: there is no such loss.
    """
    if name == "mse":
        return lambda guess, plain: F.mse_loss(guess, plain)
    if name == "mse-ssim":
        return lambda guess, plain: F.mse_loss(guess, plain) + SSIM_WEIGHT * (1 - ssim(guess, plain)).mean()
    if name == "sign-free":
        return sign_free
    if name != "perceptual":
        raise UsageError(f"there is no loss {name!r}; use one of: {', '.join(LOSSES)}")
    features = frozen(device.place(FeatureExtractor()))

    def perceptual(guess: Tensor, plain: Tensor) -> Tensor:
        with device.autocast():
            distance: Tensor = (features(guess).float() - features(plain).float()).square().mean()
        return F.mse_loss(guess, plain) + PERCEPTUAL_WEIGHT * distance

    return perceptual


def _box(values: Tensor) -> Tensor:
    """Mean over every whole 7x7 window, one axis after the other."""
    return F.avg_pool2d(F.avg_pool2d(values, (WINDOW, 1), stride=1), (1, WINDOW), stride=1)
