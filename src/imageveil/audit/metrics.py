"""How much two images have in common: SSIM, squared error over variance, PSNR, perceptual distance.

Every function takes plain images and what is held against them (protected or reconstructed), both (N, 3, H, W), either
uint8 or float in [0, 1], and returns one value an image. What leaves a client is 8-bit, so judge uint8.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.errors import UsageError

WINDOW = 7
PSNR_CEILING = 100.0
CHUNK = 500


def check_pair(plain: Tensor, other: Tensor) -> None:
    """Refuse two batches that cannot be compared.

    Raises:
        UsageError: they are no batches of images, or differ in shape, or are empty.
    """
    if plain.ndim != 4 or plain.shape != other.shape or len(plain) == 0:
        raise UsageError(
            f"cannot compare images of shape {tuple(plain.shape)} with {tuple(other.shape)}; give equal (N, 3, H, W)"
        )


def as_bytes_scale(images: Tensor) -> Tensor:
    """Images as float32 on the scale 0..255, from uint8 or from floats in [0, 1]."""
    return images.float() if images.dtype == torch.uint8 else images.float() * 255


def crop_to(images: Tensor, plain: Tensor) -> Tensor:
    """Cut off what a block scheme padded below and to the right of the plain size."""
    return images[..., : plain.shape[-2], : plain.shape[-1]]


def ssim(plain: Tensor, other: Tensor) -> Tensor:
    """Structural similarity as scikit-image computes it by default (Wang et al. 2004, uniform window).

    7x7 uniform window, sample covariance, data range 255 (1 for floats), windows that reach over the border left out,
    mean over the three colours. Equal to `skimage.metrics.structural_similarity` within 1e-4.

    Returns:
        float32 (N,), in [-1, 1].

    Raises:
        UsageError: the shapes differ, or a side is shorter than seven pixels.
    """
    return ssim_and_of_negative(plain, other)[0]


def ssim_either_sign(plain: Tensor, other: Tensor) -> Tensor:
    """The larger SSIM of an image and of its negative: who looks at a negative sees the picture all the same."""
    return torch.maximum(*ssim_and_of_negative(plain, other))


def ssim_and_of_negative(plain: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of `other` and of its negative (255 - v, or 1 - v for floats) in one pass; see `ssim`."""
    check_pair(plain, other)
    if min(plain.shape[-2:]) < WINDOW:
        raise UsageError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, not {tuple(plain.shape[-2:])}")
    parts = zip(torch.split(plain, CHUNK), torch.split(other, CHUNK), strict=True)
    both = [_ssim_chunk(as_bytes_scale(x), as_bytes_scale(y)) for x, y in parts]
    return torch.cat([of for of, _ in both]), torch.cat([negative for _, negative in both])


def _ssim_chunk(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # Variances do not depend on the origin; taken about mid-grey their float32 differences lose least.
    x, y = x - 127.5, y - 127.5
    mean_x, mean_y = _box(x), _box(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    variances = sample * (_box(x * x + y * y) - mean_x * mean_x - mean_y * mean_y)
    covariance = sample * (_box(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x = mean_x + 127.5
    found = []
    # About mid-grey the negative only changes sign.
    for sign in (1, -1):
        mean = sign * mean_y + 127.5
        upper = (2 * mean_x * mean + c1) * (2 * sign * covariance + c2)
        lower = (mean_x * mean_x + mean * mean + c1) * (variances + c2)
        found.append((upper / lower).mean(dim=(1, 2, 3)))
    return found[0], found[1]


def _box(values: Tensor) -> Tensor:
    """Mean over every whole 7x7 window, one axis after the other."""
    return F.avg_pool2d(F.avg_pool2d(values, (WINDOW, 1), stride=1), (1, WINDOW), stride=1)


def squared_error(plain: Tensor, other: Tensor) -> Tensor:
    """Mean squared error (N,) on the scale [0, 1]."""
    check_pair(plain, other)
    parts = zip(torch.split(plain, CHUNK), torch.split(other, CHUNK), strict=True)
    return torch.cat([((as_bytes_scale(x) - as_bytes_scale(y)) / 255).square().mean(dim=(1, 2, 3)) for x, y in parts])


def variance(images: Tensor) -> float:
    """Variance about the mean image, on the scale [0, 1]: what the best blind guess leaves (CIFAR-10: 0.0615)."""
    chunks = torch.split(images, CHUNK)
    total = torch.stack([as_bytes_scale(part).sum(dim=0, dtype=torch.float64) for part in chunks]).sum(dim=0)
    mean = total / len(images)
    squares = sum(float((as_bytes_scale(part) - mean).square().sum()) for part in chunks)
    return squares / images.numel() / 255**2


def mse_var(plain: Tensor, other: Tensor, *, of: float | None = None) -> Tensor:
    """Squared error (N,) over the variance about the mean image; 0 is a perfect copy, 1 the best blind guess.

    Args:
        plain: the plain images.
        other: what is held against them.
        of: the variance to divide by; None takes that of `plain`.

    Raises:
        UsageError: the shapes differ, or all plain images are equal so that there is no variance.
    """
    scale = variance(plain) if of is None else of
    if scale <= 0:
        raise UsageError("the plain images do not differ from each other; squared error over variance needs several")
    return squared_error(plain, other) / scale


def psnr(plain: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in decibels, at most 100 (equal images would be infinite)."""
    return (-10 * torch.log10(squared_error(plain, other).clamp_min(1e-30))).clamp_max(PSNR_CEILING)


@torch.no_grad()
def perceptual(plain: Tensor, other: Tensor) -> Tensor:
    """Eq. 7 of the paper per image: mean squared difference (N,) of the scaled relu1_2 features of VGG16."""
    from imageveil.networks.feature_extractor import FeatureExtractor

    check_pair(plain, other)
    features = FeatureExtractor().to(plain.device)
    size = max(1, 100 * 32 * 32 // (plain.shape[-1] * plain.shape[-2]))
    distances = [
        (features(as_bytes_scale(x) / 255) - features(as_bytes_scale(y) / 255)).square().mean(dim=(1, 2, 3))
        for x, y in zip(torch.split(plain, size), torch.split(other, size), strict=True)
    ]
    return torch.cat(distances)
