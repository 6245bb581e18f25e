"""phi_k of Eq. 7: the second ReLU of VGG16 (relu1_2), ImageNet weights, frozen."""

from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor, nn

# Mean activation over the 50,000 CIFAR-10 training images; dividing by it puts L_feat on a scale near one.
# `python benchmarks/feature_scale.py` prints it.
MEAN_ACTIVATION = 133.6

IMAGENET_MEAN = (123.68, 116.779, 103.939)


class FeatureExtractor(nn.Module):
    """VGG16 up to relu1_2 (Simonyan and Zisserman 2014), normalising its own input.

    Features are divided by their mean over CIFAR-10, so that they have mean 1 on natural images.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1_1 = nn.Conv2d(3, 64, 3, padding=1)
        self.conv1_2 = nn.Conv2d(64, 64, 3, padding=1)
        blob = (resources.files("imageveil") / "assets" / "vgg16_relu1_2.safetensors").read_bytes()
        weights = load(blob)
        with torch.no_grad():
            for name, conv in (("conv1_1", self.conv1_1), ("conv1_2", self.conv1_2)):
                conv.weight.copy_(weights[f"{name}.weight"])
                assert conv.bias is not None
                conv.bias.copy_(weights[f"{name}.bias"])
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (N, 3, H, W) in [0, 1] to scaled features (N, 64, H, W), not negative."""
        hidden = torch.relu(self.conv1_1(images * 255 - self.mean))
        return torch.relu(self.conv1_2(hidden)) / MEAN_ACTIVATION
