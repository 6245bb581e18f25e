"""ResNet-18 with the stem for small images: the paper's judge of accuracy."""

import torch
from torch import Tensor, nn

from imageveil.networks.normalise import Normalise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or a 1x1 projection (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the block's output, (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.residual(hidden) + self.shortcut(hidden))


class ResNet18(nn.Module):
    """ResNet-18 whose stem is one 3x3 convolution without pooling.

    Takes float images (N, 3, H, W) in [0, 1] of any size.

    Args:
        classes: number of labels.
        width: channels of the first stage; the paper's network has 64.
    """

    def __init__(self, classes: int = 10, *, width: int = 64, inputs: int = 3) -> None:
        super().__init__()
        stem = [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        stages: list[nn.Module] = []
        previous = width
        for stage in range(4):
            outputs = width * 2**stage
            stages += [BasicBlock(previous, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
            previous = outputs
        self.features = nn.Sequential(Normalise() if inputs == 3 else nn.Identity(), *stem, *stages)
        self.head = nn.Linear(previous, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return logits
