"""Which image was it? Top-1 among N candidates, by the best of four matchers.

SSIM and squared error ask for the right colours; an outline drawing in other colours gives an image away all the same.
So a shown image (protected or reconstructed) is held against the true image and N - 1 others, by four matchers that
look at different things. None of them knows shifts, mirrors or permutations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imageveil.audit.intervals import wilson
from imageveil.audit.metrics import as_bytes_scale, check_pair
from imageveil.errors import UsageError

ALL_CLASSES = 1000
SAME_CLASS = 100
LEAST_CANDIDATES = 10
"""Among fewer images of a class guessing is right so often that the right one says little."""

LUMINANCE = (0.299, 0.587, 0.114)
# Below this norm a feature is what rounding leaves of a flat image, and says nothing.
FLAT = 1e-4
CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Reidentification:
    """Rates of one candidate rule.

    Attributes:
        rates: share of right answers by matcher.
        best: the matcher with the highest rate.
        candidates: images to choose from, averaged over classes where these differ.
        queries: images that were asked for; fewer than there were where classes differ in size, since an image of a
            small class weighs more in the average over classes.
        floor: what guessing reaches.
    """

    rates: dict[str, float]
    best: str
    candidates: float
    queries: float
    floor: float

    @property
    def rate(self) -> float:
        """The rate of the best matcher."""
        return self.rates[self.best]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of that rate, the best of several."""
        return wilson(self.rate * self.queries, self.queries, best_of=len(self.rates))


def reid_top1(plain: Tensor, shown: Tensor, *, candidates: int = ALL_CLASSES, seed: int = 0) -> Reidentification:
    """Re-identification among images of all classes.

    The images are dealt at random into sets of `candidates`; in every set each shown image is looked for among all
    plain ones. A remainder is left out; fewer images than `candidates` make one smaller set.

    Args:
        plain: plain images, uint8 or float in [0, 1], (N, 3, H, W).
        shown: what the viewer has, same shape and order.
        candidates: size of a set.
        seed: decides the sets.

    Raises:
        UsageError: the shapes differ, or there are fewer than two images.
    """
    check_pair(plain, shown)
    order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(seed))
    return _rate(plain, shown, [_sets(order, candidates)])


def reid_within(
    plain: Tensor, shown: Tensor, labels: Tensor, *, candidates: int = SAME_CLASS, seed: int = 0
) -> Reidentification:
    """Re-identification among images of the same class, so that knowing the label does not help.

    As `reid_top1` with sets from one class each (all of a class that has fewer images); rates are averaged over
    classes. Classes of fewer than `LEAST_CANDIDATES` images are left out, or where all are so small, those of a single
    image.

    Raises:
        UsageError: the shapes differ, or no class has two images.
    """
    check_pair(plain, shown)
    order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(seed))
    shuffled = labels.cpu()[order]
    classes = [_sets(order[shuffled == label], candidates) for label in sorted(set(shuffled.tolist()))]
    enough = [sets for sets in classes if len(sets[0]) >= min(candidates, LEAST_CANDIDATES)]
    return _rate(plain, shown, enough or classes)


def _sets(members: Tensor, candidates: int) -> list[Tensor]:
    """Cut a shuffled list of image numbers into whole sets."""
    if len(members) < candidates:
        return [members]
    return list(torch.split(members[: len(members) // candidates * candidates], candidates))


def _rate(plain: Tensor, shown: Tensor, classes: list[list[Tensor]]) -> Reidentification:
    classes = [sets for sets in classes if len(sets[0]) > 1]
    if not classes:
        raise UsageError("re-identification needs at least two images to choose between, in one class at least")
    rates = {}
    for name, (features, score) in MATCHERS.items():
        there, here = _in_chunks(features, plain), _in_chunks(features, shown)
        hits = [torch.cat([_hits(score(here[part], there[part])) for part in sets]).mean() for sets in classes]
        rates[name] = float(torch.stack(hits).mean())
    sizes = torch.tensor([len(sets[0]) for sets in classes], dtype=torch.float64)
    asked = torch.tensor([sum(len(part) for part in sets) for sets in classes], dtype=torch.float64)
    return Reidentification(
        rates=rates,
        best=max(rates, key=lambda name: rates[name]),
        candidates=float(sizes.mean()),
        # As many equal queries would give an average over classes with the same variance.
        queries=float(len(classes) ** 2 / (1 / asked).sum()),
        floor=float((1 / sizes).mean()),
    )


def _hits(scores: Tensor) -> Tensor:
    """Whether the largest score of each row lies on the diagonal; equal scores share the hit."""
    largest = scores.amax(dim=1, keepdim=True)
    ties = (scores == largest).sum(dim=1)
    return (scores.diagonal() == largest[:, 0]).double() / ties


def _in_chunks(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([features(as_bytes_scale(part) / 255) for part in torch.split(images, CHUNK)])


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def _nearness(here: Tensor, there: Tensor) -> Tensor:
    """Negative squared distance, up to a constant for each row."""
    return 2 * here @ there.T - there.square().sum(dim=1)


def _correlation(here: Tensor, there: Tensor) -> Tensor:
    return here @ there.T


def _either_sign(here: Tensor, there: Tensor) -> Tensor:
    return (here @ there.T).abs()


def _standardised(values: Tensor) -> Tensor:
    """Each row with mean 0 and norm 1, so that products are correlations; flat rows become 0."""
    values = values.flatten(1)
    values = values - values.mean(dim=1, keepdim=True)
    norm = values.norm(dim=1, keepdim=True)
    return torch.where(norm > FLAT, values / norm.clamp_min(FLAT), 0.0)


def _high_pass(images: Tensor) -> Tensor:
    """Luminance minus its Gaussian of sigma 2."""
    grey = luminance(images)
    return _standardised(grey - blur(grey, sigma=2.0))


def _gradient(images: Tensor) -> Tensor:
    """Gradient magnitude of luminance smoothed by a Gaussian of sigma 0.7."""
    grey = luminance(images)
    return _standardised(torch.hypot(blur(grey, sigma=0.7, order=(1, 0)), blur(grey, sigma=0.7, order=(0, 1))))


MATCHERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "squared_error": (_pixels, _nearness),
    "correlation": (_standardised, _either_sign),
    "high_pass": (_high_pass, _either_sign),
    "gradient": (_gradient, _correlation),
}
"""By name: what a matcher takes from an image, and its score (queries, candidates), larger for better."""


def luminance(images: Tensor) -> Tensor:
    """Rec. 601 luminance (N, H, W) of float images (N, 3, H, W)."""
    weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device)
    return torch.einsum("nchw,c->nhw", images, weights)


def blur(grey: Tensor, *, sigma: float, order: tuple[int, int] = (0, 0)) -> Tensor:
    """Gaussian filter or its first derivatives, as `scipy.ndimage.gaussian_filter` by default.

    Args:
        grey: float (N, H, W).
        sigma: standard deviation in pixels; the kernel is cut off at four of them.
        order: derivative along rows (vertical) and columns.
    """
    rows = _filter_matrix(grey.shape[1], sigma, order[0]).to(grey)
    columns = _filter_matrix(grey.shape[2], sigma, order[1]).to(grey)
    return rows @ grey @ columns.T


def _filter_matrix(size: int, sigma: float, order: int) -> Tensor:
    """A filter along one axis as a (size, size) matrix; the border repeats mirrored, edge pixel included."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    if order:
        kernel = kernel * offsets / sigma**2
    index = (torch.arange(size)[:, None] + offsets) % (2 * size)
    index = torch.where(index < size, index, 2 * size - 1 - index)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, index, kernel.expand(size, -1)).float()
