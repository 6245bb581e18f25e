"""Optimizers and learning rates: what learns which weights, how fast, and when.

Muon (Jordan et al. 2024) for convolutions: momentum, then the nearest orthogonal matrix of the update. torch.optim.Muon
takes matrices only and leaves the norm of the weights free. Here filters are matrices (outputs, inputs * kernel) and
keep a constant norm, which batch norm makes harmless: a short run then needs half the steps of SGD.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.networks.resnet import ResNet18
from imageveil.networks.vgg import VGG13, QuickNet
from imageveil.presets import ClassifierConfig


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
            multiplies bfloat16 matrices far slower than float32 ones.
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


def build_optimizers(
    network: nn.Module, config: ClassifierConfig, *, bf16: bool = False
) -> list[torch.optim.Optimizer]:
    """Muon for filters and SGD for the rest, or SGD for everything; `bf16` as in `Device`.

    A group's `share`, if it has one, is the share of the run in which its rate falls to zero (see `set_rates`).
    """
    learned = [p for p in network.parameters() if p.requires_grad]
    sgd: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.optimizer == "sgd":
        return [torch.optim.SGD(learned, lr=config.lr, weight_decay=config.weight_decay, **sgd)]
    if config.optimizer != "muon":
        raise UsageError(f"unknown optimizer {config.optimizer!r}; use muon or sgd")
    left = {id(p): p for p in learned if p.ndim != 4}

    def group(parameters: Iterable[nn.Parameter], rate: float, **extra: float) -> dict[str, Any]:
        # A larger rate must not shrink its weights faster.
        own = [left.pop(id(p)) for p in parameters if id(p) in left]
        return {"params": own, "lr": rate, "weight_decay": config.weight_decay / rate, **extra}

    # The shifts of batch norm learn much faster than weights (Jordan 2024).
    modules = list(network.modules())
    groups = [
        group((m.bias for m in modules if isinstance(m, nn.BatchNorm2d)), config.shift_lr),
        group(
            (p for m in modules if isinstance(m, QuickNet) for p in m.whitening.parameters()),
            config.shift_lr,
            share=config.whitening_share,
        ),
        group(
            (p for m in modules if isinstance(m, QuickNet | VGG13 | ResNet18) for p in m.head.parameters()),
            config.head_lr,
        ),
        group(list(left.values()), config.lr),
    ]
    filters = [p for p in learned if p.ndim == 4]
    dtype = torch.bfloat16 if bf16 else torch.float32
    sgd_groups = [one for one in groups if one["params"]]
    return [Muon(filters, lr=config.filter_lr, dtype=dtype), torch.optim.SGD(sgd_groups, lr=config.lr, **sgd)]


def schedule(name: str, progress: float) -> float:
    """Factor on the learning rate after a share `progress` of the run.

    Raises:
        UsageError: the schedule is unknown.
    """
    if name == "linear":
        return 1 - progress
    if name == "one-cycle":
        return progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if name == "steps":
        return 0.2 ** sum(progress >= at for at in (0.3, 0.6, 0.8))
    raise UsageError(f"unknown schedule {name!r}; use linear, one-cycle, cosine or steps")


def set_rates(optimizers: Sequence[torch.optim.Optimizer], name: str, progress: float) -> None:
    """Set every learning rate by its schedule after a share `progress` of the run; see `schedule`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * schedule(name, min(1.0, progress / group.get("share", 1.0)))
