"""An attacker who holds the transformation looks for the image that it turns into the protected one.

Minimise ||h(x) - z||^2 plus total variation over the image x (as in gradient inversion, Geiping et al. 2020,
arXiv 2003.14053), or over the weights of a random U-Net per batch (deep image prior, Ulyanov et al. 2018,
arXiv 1711.10925). Pixels are optimised together, each image on its own: no term joins two of them. Images of a batch
share the weights and batch norm of their U-Net.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.inverse_network import InverseNetwork, train_inverse, trained_before
from imageveil.attacks.knowledge import Knowledge, Transformation
from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.ranges import Count, Rate, Weight
from imageveil.training.loop import step_generator
from imageveil.training.optimizers import set_rates

NOISE_CHANNELS = 3
NETWORK_BATCH = 8
"""Images that share the weights of one random U-Net."""

NETWORK_WIDTHS = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Gradients(Attack):
    """Optimise images until they protect to what was seen.

    A run directory keeps the inverse network that `start=inverse` trains; the search itself is not stored, nor resumed.

    Attributes:
        prior: `image` optimises pixels under total variation; `network` the weights of a random U-Net.
        start: `mean`, the mean of the plain images; or `inverse`, the answer of an inverse network: of one that was
            trained on the scheme before (`Conditions.trained`), else one is trained first. For `prior=image` only.
        steps: number of steps.
        lr: Adam's rate, falling to zero along a cosine.
        variation: weight of the total variation, per pixel, beside the squared error per value.
        batch: images at once; decides memory, and nothing of the answer for `prior=image`.
        inverse: budget of the inverse network where `start=inverse` trains one.
    """

    name: ClassVar[str] = "gradients"
    threats: ClassVar[tuple[str, ...]] = ("gradients",)
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 2000, "inverse": "paper"},
        "quick": {},
        "smoke": {"steps": 20, "inverse": "smoke"},
    }

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"start": "inverse"}, {"prior": "network"})

    prior: str = "image"
    start: str = "mean"
    steps: Count = 300
    lr: Rate = 0.05
    variation: Weight = 1e-3
    batch: Count = 250
    inverse: str = "quick"

    def __post_init__(self) -> None:
        if self.prior not in ("image", "network"):
            raise UsageError(f"there is no prior {self.prior!r}; use image or network")
        if self.start not in ("mean", "inverse"):
            raise UsageError(f"there is no start {self.start!r}; use mean or inverse")
        if self.prior == "network" and self.start != "mean":
            raise UsageError("start=inverse is a start for pixels; use prior=image with it")
        if min(self.steps, self.batch) < 1:
            raise UsageError("steps and batch must be positive")
        InverseNetwork.in_budget(self.inverse)

    def fit(self, knowledge: Knowledge, conditions: Conditions | None = None) -> Reconstruction:
        """Keep the transformation; only `start=inverse` trains. See `Attack.fit`."""
        self.require(knowledge)
        conditions = conditions or Conditions()
        assert knowledge.transformation is not None
        first: Reconstruction | None = None
        if self.start == "inverse":
            first = trained_before(knowledge, conditions) or train_inverse(
                InverseNetwork.in_budget(self.inverse), knowledge, knowledge.oracle, conditions
            )
        mean = knowledge.mean_image() / 255
        return Search(self, knowledge.transformation, mean, first, conditions)


class Search(Reconstruction):
    """Optimises each batch of images when it is asked for them."""

    def __init__(
        self,
        attack: Gradients,
        transformation: Transformation,
        mean: Tensor,
        first: Reconstruction | None,
        conditions: Conditions,
    ) -> None:
        self.attack, self.transformation, self.mean, self.first = attack, transformation, mean, first
        self.conditions = conditions
        self.seconds_before = 0.0 if first is None else first.seconds_before
        self.remains: list[float] = []

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Optimise; see `Reconstruction.reconstruct`."""
        self.remains = []
        size = self.attack.batch if self.attack.prior == "image" else NETWORK_BATCH
        device, out = self.conditions.device.torch, []
        for number, part in enumerate(torch.split(protected, size)):
            wanted = part.to(device).float() / 255
            start = self.mean.expand(len(part), -1, -1, -1).to(device)
            if self.first is not None:
                start = self.first.reconstruct(part).to(device).float() / 255
            found = self._pixels(wanted, start) if self.attack.prior == "image" else self._network(wanted, number)
            with torch.no_grad():
                distance = (self.transformation(found) - wanted).square().mean(dim=(1, 2, 3))
            self.remains += distance.tolist()
            out.append((found * 255).round().to(torch.uint8).cpu())
        return torch.cat(out)

    def figures(self) -> dict[str, float]:
        """Squared error between what the answers protect to and what was seen, on the scale [0, 1]."""
        return {"protected_error": sum(self.remains) / len(self.remains)} if self.remains else {}

    def _pixels(self, wanted: Tensor, start: Tensor) -> Tensor:
        """Optimise the images themselves, from `start`; both float (N, 3, H, W) in [0, 1]."""
        free = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=self.attack.lr)
        for step in range(self.attack.steps):
            set_rates([optimizer], "cosine", step / self.attack.steps)
            optimizer.zero_grad()
            # Sums over images and values: no image depends on another, and the gradients of single values, millionths
            # as means, stay far above the 1e-8 that Adam adds to its denominator.
            (free[0].numel() * self._loss(free, wanted).sum()).backward(inputs=[free])
            optimizer.step()
            with torch.no_grad():
                free.clamp_(0, 1)
        return free.detach()

    def _network(self, wanted: Tensor, number: int) -> Tensor:
        """Optimise the weights of a random U-Net that turns fixed noise into the images."""
        generator = step_generator(self.conditions.seed, number, stream=6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            network = self.conditions.device.place(UNet(UNetConfig(widths=NETWORK_WIDTHS)))
        noise = torch.rand(len(wanted), NOISE_CHANNELS, *wanted.shape[2:], generator=generator).to(wanted.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.2 * self.attack.lr)
        for step in range(self.attack.steps):
            set_rates([optimizer], "cosine", step / self.attack.steps)
            optimizer.zero_grad()
            with self.conditions.device.autocast():
                images = network(noise).float()
            self._loss(images, wanted).mean().backward(inputs=list(network.parameters()))
            optimizer.step()
        # The weights fit the statistics of this batch: batch norm stays as in training.
        with torch.no_grad(), self.conditions.device.autocast():
            found: Tensor = network(noise).float()
        return found.clamp(0, 1)

    def _loss(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Squared error of the protected images plus total variation, (N,)."""
        with self.conditions.device.autocast():
            shown = self.transformation(images).float()
        error = (shown - wanted).square().mean(dim=(1, 2, 3))
        return error + self.attack.variation * total_variation(images)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference (N,) to the pixels below and to the right of float images (N, 3, H, W)."""
    down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return down.mean(dim=(1, 2, 3)) + right.mean(dim=(1, 2, 3))
