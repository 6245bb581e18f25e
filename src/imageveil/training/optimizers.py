"""Muon (Jordan et al. 2024) for convolutions: momentum, then the nearest orthogonal matrix of the update.

torch.optim.Muon takes matrices only and leaves the norm of the weights free. Here filters are matrices (outputs,
inputs * kernel) and keep a constant norm, which batch norm makes harmless: a short run
then needs half the steps of SGD.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrix: Tensor, steps: int = 3, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring all singular values of a matrix near one by a quintic Newton-Schulz iteration, computed in `dtype`."""
    x: Tensor = matrix.to(dtype)
    x = x / (x.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    out: Tensor = (x.T if tall else x).to(matrix.dtype)
    return out


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum over convolution weights of constant norm.

    Args:
        params: weights of two or more dimensions; the first is the outputs.
        lr: step, relative to weights whose rows have a mean square norm of one.
        momentum: decay of the sum of gradients.
        dtype: precision of the orthogonalisation, which bears bfloat16 well. A processor without such instructions
            multiplies bfloat16 matrices forty times slower than float32 ones.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.6, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that are there."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight.grad)
                total = state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(total, alpha=group["momentum"])
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(orthogonalise(update.flatten(1), dtype=self.dtype).view(update.shape), alpha=-group["lr"])
