"""The discriminators F_A and F_B: PatchGAN, as in CycleGAN (Zhu et al. 2017)."""

from torch import Tensor, nn

from imageveil.networks.normalise import Normalise


class PatchGAN(nn.Module):
    """A convolutional discriminator that judges overlapping patches, with leaky ReLU 0.2 and instance norm.

    Three strided layers give CycleGAN's 70x70 patches; two, for 32x32 images, give 34x34.
    Takes float images (N, 3, H, W) in [0, 1].

    Args:
        width: channels of the first layer; 64 in CycleGAN.
        strided: number of layers with stride two.
    """

    def __init__(self, width: int = 64, *, strided: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise(), nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        previous = width
        for index in range(1, strided + 1):
            outputs = width * min(2**index, 8)
            layers += [
                nn.Conv2d(previous, outputs, 4, stride=2 if index < strided else 1, padding=1, bias=False),
                nn.InstanceNorm2d(outputs),
                nn.LeakyReLU(0.2, True),
            ]
            previous = outputs
        layers.append(nn.Conv2d(previous, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def smallest(strided: int) -> int:
        """Pixels that an image must have on a side: three are left after the strided layers, two where norm is."""
        return int(3 * 2**strided)

    def forward(self, images: Tensor) -> Tensor:
        """Return one unbounded score per patch, (N, 1, H', W')."""
        scores: Tensor = self.layers(images)
        return scores
