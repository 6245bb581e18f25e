"""Networks of SDAR (arXiv 2310.10483): a simulator of the protection, and discriminators that know the class."""

from itertools import pairwise

from torch import Tensor, nn

from imageveil.networks.normalise import Normalise


class ConvSimulator(nn.Module):
    """Three 3x3 convolutions with leaky ReLU between: the public architecture of the control `random-conv`.

    Args:
        widths: channels of the input and after every layer.
        slope: slope of the leaky ReLU below zero.
    """

    def __init__(self, widths: tuple[int, ...], slope: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate"), nn.LeakyReLU(slope)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Return float images about [0, 1], (N, 3, H, W), not clipped."""
        out: Tensor = self.layers(images * 2 - 1)
        return 0.5 + out


class LabelledCritic(nn.Module):
    """A discriminator of float images (N, 3, H, W) in [0, 1] and their classes.

    Strided convolutions with leaky ReLU 0.2, and a score with a part of its own for every class (projection, Miyato
    and Koyama 2018). No normalisation: contrast and brightness are part of what it judges.

    Args:
        classes: number of classes.
        width: channels of the first layer.
    """

    def __init__(self, classes: int, *, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise()]
        previous = 3
        for outputs in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(previous, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            previous = outputs
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(previous, 1)
        self.vectors = nn.Embedding(classes, previous)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return unbounded scores (N,)."""
        hidden = self.layers(images).float().mean(dim=(2, 3))
        scores: Tensor = self.head(hidden).float()[:, 0] + (self.vectors(labels) * hidden).sum(dim=1)
        return scores
