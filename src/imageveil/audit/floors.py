"""What somebody knows without looking, and yardsticks for what a figure means.

A reconstruction says something about a scheme only by what it has beyond two kinds of guesses: *blind* ones, which use
nothing of the protected image, and *label-only* ones, which know its class. The guesses are made from the owner's
training images where the judge has them: no attacker's own plain images give better ones.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.audit.leakage import Leakage, measure
from imageveil.audit.metrics import as_bytes_scale
from imageveil.audit.reidentification import blur

BLIND = ("grey", "mean_image", "another_image")
LABEL_ONLY = ("class_mean", "another_of_class")
# For each figure of a floor: what the best guesser reaches over several guesses.
BEST: dict[str, Callable[..., float]] = {
    "ssim": max,
    "psnr": max,
    "mse_var": min,
    "reid_top1": max,
    "reid_within": max,
}


def to_bytes(values: Tensor) -> Tensor:
    """Round values on the scale 0..255 to uint8."""
    return values.round().clamp(0, 255).to(torch.uint8)


def guesses(
    plain: Tensor,
    labels: Tensor | None = None,
    *,
    reference: tuple[Tensor, Tensor | None] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Every floor's image for every plain image.

    Args:
        plain: the judged images, uint8 (N, 3, H, W).
        labels: their classes (N,); None leaves the label-only guesses out.
        reference: other plain images of the same kind, size and classes, with their labels, for the means; None takes
            the judged images themselves, whose means fit a little better than anyone could know.
        seed: decides which other image is shown.

    Returns:
        uint8 (N, 3, H, W) by name of the guess. Two of them show another one of the judged images, never the same.
    """
    known, known_labels = reference or (plain, labels)
    order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(seed))
    shown = {
        "grey": torch.full_like(plain, 128),
        "mean_image": to_bytes(_mean(known)).expand_as(plain),
        "another_image": plain[_successors(order)],
    }
    if labels is None or known_labels is None:
        return shown
    labels, known_labels = labels.cpu(), known_labels.cpu()
    means, other = torch.empty_like(plain), _successors(order)
    for label in sorted(set(labels.tolist())):
        members = order[labels[order] == label]
        of_class = known[known_labels == label]
        means[members] = to_bytes(_mean(of_class if len(of_class) else known))
        if len(members) > 1:
            other[members] = _successors(members)[members]
    return shown | {"class_mean": means, "another_of_class": plain[other]}


def _mean(images: Tensor) -> Tensor:
    """Mean image (3, H, W) on the scale 0..255, exact for large sets."""
    total = torch.stack([as_bytes_scale(part).sum(dim=0, dtype=torch.float64) for part in torch.split(images, 1000)])
    return (total.sum(dim=0) / len(images)).float()


def _successors(order: Tensor) -> Tensor:
    """For every image in `order` the next one, round the circle; indexed by image number."""
    following = torch.zeros(int(order.max()) + 1, dtype=torch.long)
    following[order] = order.roll(-1)
    return following


def floors(
    plain: Tensor,
    labels: Tensor | None = None,
    *,
    reference: tuple[Tensor, Tensor | None] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """The best that guessing reaches, figure by figure: what stands under `floors` in a record.

    Args: see `guesses`.

    Returns:
        `blind` and, with labels, `label_only`: each with `ssim`, `psnr`, `mse_var`, `reid_top1` and (with labels)
        `reid_within`, the best over its guesses; and `chance`: one over the number of candidates.
    """
    measured = {
        name: measure(plain, shown, labels, seed=seed)
        for name, shown in guesses(plain, labels, reference=reference, seed=seed).items()
    }
    found = {}
    for kind, names in (("blind", BLIND), ("label_only", LABEL_ONLY)):
        rows = [measured[name].metrics for name in names if name in measured]
        if rows:
            found[kind] = {key: best(row[key] for row in rows) for key, best in BEST.items() if key in rows[0]}
    found["chance"] = dict(measured["grey"].floors)
    return found


def yardsticks(plain: Tensor, *, components: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, Tensor]:
    """Images that share a known part with the plain ones, so that a figure can be read off a scale.

    Args:
        plain: uint8 (N, 3, H, W), both sides multiples of eight.
        components: numbers of principal components of the set to keep.

    Returns:
        uint8 (N, 3, H, W) by name: the mean colour, the first principal components, thumbnails of 4x4 and 8x8 pixels
        for each 32x32, the negative, and edges only (minus a Gaussian of sigma 2, about mid-grey).
    """
    values = as_bytes_scale(plain)
    shown = {"own mean colour": to_bytes(values.mean(dim=(2, 3), keepdim=True)).expand_as(plain)}
    flat = values.flatten(1)
    mean = flat.mean(dim=0)
    axes = _principal_axes(flat - mean, max(components))
    for count in components:
        kept = (flat - mean) @ axes[:, :count] @ axes[:, :count].T + mean
        name = f"{count} principal component{'s' if count > 1 else ''}"
        shown[name] = to_bytes(kept).view_as(plain)
    for pixels, block in ((4, 8), (8, 4)):
        small = F.avg_pool2d(values, block)
        shown[f"{pixels}x{pixels} thumbnail"] = to_bytes(F.interpolate(small, scale_factor=block))
    shown["negative"] = 255 - plain
    channels = values.flatten(0, 1)
    shown["edges only"] = to_bytes((channels - blur(channels, sigma=2.0) + 127.5).view_as(values))
    return shown


def _principal_axes(centred: Tensor, count: int) -> Tensor:
    """The first principal axes (D, count) of rows (N, D), by subspace iteration: a full decomposition takes minutes."""
    count = min(count, *centred.shape)
    start = torch.randn(centred.shape[1], min(2 * count, *centred.shape), generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start).Q
    for _ in range(10):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    # Inside the subspace the small problem is solved exactly, which orders the axes.
    small = centred @ basis
    turn: Tensor = torch.linalg.eigh(small.T @ small).eigenvectors.flip(1)
    axes: Tensor = basis @ turn[:, :count]
    return axes


def table(plain: Tensor, labels: Tensor, *, seed: int = 0) -> dict[str, Leakage]:
    """Every guess and every yardstick, measured."""
    shown = {name.replace("_", " "): images for name, images in guesses(plain, labels, seed=seed).items()}
    return {name: measure(plain, images, labels, seed=seed) for name, images in (shown | yardsticks(plain)).items()}
