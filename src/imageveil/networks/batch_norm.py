"""Running statistics of batch norm, by which a finished network normalises."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure_batch_norm(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace a network's running means and variances by their averages over some batches.

    Args:
        network: left in the mode that it is in.
        batches: what it is called with, one batch at a time.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, training = [layer.momentum for layer in layers], network.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over batches
    network.train()
    for batch in batches:
        network(*batch)
    network.train(training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
