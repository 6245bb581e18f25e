"""How sure a figure is: Wilson's interval for rates, the bootstrap over images for means."""

import math

import torch
from torch import Tensor

Z95 = 1.959964
RESAMPLES = 1000


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927), inside [0, 1].

    Args:
        successes: number of hits; a fraction where ties were shared.
        n: number of trials, at least one.
    """
    rate = successes / n
    centre = rate + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    below = 1 + Z95**2 / n
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
