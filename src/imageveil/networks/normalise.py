"""Normalisation as a layer, so that no network can be fed the wrong value range."""

import torch
from torch import Tensor, nn

# Per-channel mean and standard deviation of the CIFAR-10 training images, in [0, 1].
MEAN = (0.4914, 0.4822, 0.4465)
STANDARD_DEVIATION = (0.2470, 0.2435, 0.2616)


class Normalise(nn.Module):
    """Map float images (N, 3, H, W) in [0, 1] to about zero mean and unit variance."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(STANDARD_DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, same shape."""
        return (images - self.mean) / self.deviation
