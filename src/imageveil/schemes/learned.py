"""The learned transformation h_p: a U-Net whose weights are the secret (METHOD of Sirichotedumrong and Kiya 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor

from imageveil.errors import UsageError
from imageveil.networks.unet import FIELD_PERIOD, UNet, UNetConfig
from imageveil.schemes.base import Scheme


class LearnedScheme(Scheme):
    """A transformation network G_AB, applied to float images and rounded to 8 bits.

    Args:
        network: the transformation network, float [0, 1] to float [0, 1].
        training: summary of how it was learned (data, seed, steps, losses), kept with the weights.
        label: what to call it in records, for example `gan-cifar10`.
    """

    name = "learned"
    published = "Sirichotedumrong and Kiya 2020, arXiv 2006.01342"

    def __init__(self, network: UNet, *, training: Mapping[str, Any] | None = None, label: str = "learned") -> None:
        self.network = network.eval()
        self.training = dict(training or {})
        self.label = label
        self.alignment = FIELD_PERIOD if network.config.field else max(network.cell, 4)

    @property
    def reach(self) -> int:
        """Pixels around a tile that decide its content: the overlap that makes tiles agree with the whole image."""
        config = self.network.config
        reach = 1  # the stem
        for level in range(len(config.widths) - 1):
            # A convolution and the pooling at this scale, further convolutions at twice it, one more on the way up.
            reach += (1 << level) * (2 + 2 * (config.depth - 1) + 1)
        return int(reach + 2 * self.network.cell)  # the head, and whole cells and blocks

    def forward(self, images: Tensor) -> Tensor:
        """Differentiable protection of float images (N, 3, H, W) in [0, 1] on the network's device; see `to`."""
        out: Tensor = self.network(images)
        return out

    @torch.no_grad()
    def protect(
        self, images: Tensor, *, ids: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Protect a uint8 batch; see `Scheme.protect`. Deterministic: ids and generator are not used."""
        parameter = next(self.network.parameters())
        batch = images.to(parameter.device).to(memory_format=torch.channels_last).float() / 255
        protected = self.network(batch).float()
        rounded: Tensor = (protected * 255).round().clamp(0, 255).to(torch.uint8)
        return rounded.contiguous().to(images.device)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights in float16, architecture and training summary."""
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in self.network.state_dict().items()
        }
        return tensors, {"architecture": asdict(self.network.config), "training": self.training, "label": self.label}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Build the network from a scheme file's content.

        Raises:
            UsageError: architecture and weights do not fit.
        """
        try:
            shape = {**metadata["architecture"], "widths": tuple(metadata["architecture"]["widths"])}
            network = UNet(UNetConfig(**shape))
            network.load_state_dict(
                {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise UsageError("the scheme file's architecture and weights do not fit together") from error
        network = network.to(memory_format=torch.channels_last)
        return cls(network, training=metadata.get("training", {}), label=metadata.get("label", "learned"))
