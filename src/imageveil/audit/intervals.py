"""How sure a figure is: Wilson's interval for rates, the bootstrap over images for means."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

RESAMPLES = 1000


def wilson(successes: float, n: float, *, best_of: int = 1) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927), inside [0, 1].

    Args:
        successes: number of hits; a fraction where ties were shared.
        n: number of trials, at least one; a fraction where some weigh more than others.
        best_of: the rate is the largest of so many, each of which may be lucky: the interval is widened so that all of
            theirs hold together (Bonferroni).
    """
    z = NormalDist().inv_cdf(1 - 0.025 / best_of)
    rate = successes / n
    centre = rate + z**2 / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    below = 1 + z**2 / n
    return max(0.0, (centre - half) / below), min(1.0, (centre + half) / below)


def bootstrap(values: Tensor, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile interval of a mean over images (Efron 1979).

    Args:
        values: one value an image, (N,).
        seed: decides the resampling.
        resamples: number of sets drawn with replacement.
    """
    values = values.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(resamples)]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def percentile(values: Tensor, share: float) -> float:
    """The value below which a share of the images lies."""
    return float(torch.quantile(values.detach().cpu().double(), share))
