"""An attacker who holds the transformation looks for the image that it turns into the protected one.

Minimise ||h(x) - z||^2 plus total variation over the image x (as in gradient inversion, Geiping et al. 2020,
arXiv 2003.14053), or over the weights of a random U-Net per batch (deep image prior, Ulyanov et al. 2018,
arXiv 1711.10925). Pixels are optimised together, each image on its own: no term joins two of them. Images of a batch
share the weights and batch norm of their U-Net.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.inverse_network import InverseNetwork, train_inverse, trained_before
from imageveil.attacks.knowledge import Knowledge, fingerprint
from imageveil.errors import UsageError
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.ranges import Count, Rate, Weight
from imageveil.training.loop import run_steps, step_generator
from imageveil.training.optimizers import set_rates
from imageveil.training.run_directory import RunDirectory, private_folder, write_tensors, writing

ANSWERS = "images.safetensors"
NOISE_CHANNELS = 3
NETWORK_BATCH = 8
"""Images that share the weights of one random U-Net."""

NETWORK_WIDTHS = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Gradients(Attack):
    """Optimise images until they protect to what was seen.

    A run directory keeps the inverse network that `start=inverse` trains, and every search.

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
        first: Reconstruction | None = None
        if self.start == "inverse":
            first = trained_before(knowledge, conditions) or train_inverse(
                InverseNetwork.in_budget(self.inverse), knowledge, knowledge.oracle, conditions
            )
        return Search(self, knowledge, first, conditions)


class Search(Reconstruction):
    """Optimises batch after batch of images when it is asked for them, in a run directory when it has one.

    A finished search is read back, and an interrupted one goes on in the midst of a batch.

    Args:
        attack: the values of the search.
        knowledge: holds the transformation, and the plain images that a search begins at the mean of.
        first: what a search of pixels begins at instead; None for the mean.
        conditions: seed, device and run directory.
        stop_after: leave after this many steps of this call, as if interrupted; what is not found yet is then black.
    """

    def __init__(
        self,
        attack: Gradients,
        knowledge: Knowledge,
        first: Reconstruction | None,
        conditions: Conditions,
        *,
        stop_after: int | None = None,
    ) -> None:
        assert knowledge.transformation is not None
        self.attack, self.first, self.conditions, self.stop_after = attack, first, conditions, stop_after
        self.transformation, self.given = knowledge.transformation, knowledge.fingerprint()
        self.mean = knowledge.mean_image() / 255
        self.remains = torch.empty(0)
        self.trained = self.seconds_before = 0.0 if first is None else first.seconds_before

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Optimise; see `Reconstruction.reconstruct`."""
        starts = self._starts(protected)
        run = self._run(protected, starts)
        answers = None if run is None else run.path / ANSWERS
        if run is not None and run.results is not None and answers is not None and answers.is_file():
            saved = load_file(answers)
            self.remains, self.seconds_before = saved["remains"], self.trained + float(run.results["seconds"])
            return saved["images"]
        found, self.remains = torch.zeros_like(protected), torch.zeros(len(protected))
        size = self.attack.batch if self.attack.prior == "image" else NETWORK_BATCH
        parts = len(starts.split(size))
        number, current = 0, self._begin(0, starts[:size])

        def step_fn(step: int) -> dict[str, Tensor]:
            nonlocal number, current
            part, within = divmod(step, self.attack.steps)
            rows = slice(part * size, (part + 1) * size)
            if within == 0:
                number, current = part, self._begin(part, starts[rows])
            wanted = protected[rows].to(self.conditions.device.torch).float() / 255
            loss = self._step(current, wanted, within / self.attack.steps)
            if within + 1 == self.attack.steps:
                found[rows], self.remains[rows] = self._answer(current, wanted)
            return {"loss": loss.detach().mean()}

        def state() -> dict[str, Any]:
            held = {"free": current.free.state_dict(), "optimizer": current.optimizer.state_dict()}
            return {"images": found, "remains": self.remains, "number": number} | held

        def restore(content: dict[str, Any]) -> None:
            nonlocal number, current
            found.copy_(content["images"])
            self.remains.copy_(content["remains"])
            number = int(content["number"])
            current = self._begin(number, starts[number * size : (number + 1) * size])
            current.free.load_state_dict(content["free"])
            current.optimizer.load_state_dict(content["optimizer"])

        begun = time.monotonic()
        seconds = run_steps(
            title=self.attack.name,
            total=parts * self.attack.steps,
            batch=size,
            step_fn=step_fn,
            state=state,
            restore=restore,
            run=run,
            device=self.conditions.device,
            stop_after=self.stop_after,
        )
        self.seconds_before = self.trained + max(0.0, seconds - (time.monotonic() - begun))
        if run is not None and answers is not None and self.stop_after is None:
            if self.conditions.device.rank == 0:
                write_tensors(answers, {"images": found, "remains": self.remains})
            run.finish({"seconds": seconds})
        return found

    def figures(self) -> dict[str, float]:
        """Squared error between what the answers protect to and what was seen, on the scale [0, 1]."""
        return {"protected_error": float(self.remains.double().mean())} if len(self.remains) else {}

    def _starts(self, protected: Tensor) -> Tensor:
        """What the search begins at, float (N, 3, H, W) in [0, 1]; weights begin at random and take its size alone."""
        if self.first is None:
            return self.mean.expand(len(protected), -1, -1, -1)
        return self.first.reconstruct(protected).float() / 255

    def _run(self, protected: Tensor, starts: Tensor) -> RunDirectory | None:
        """The run directory of the search of these images: each set of images has its own beside the training's."""
        if self.conditions.folder is None:
            return None
        images = fingerprint({"protected": protected, "starts": starts})
        identity = {"attack": self.attack.name, "seed": self.conditions.seed, "given": self.given, "images": images}
        with writing(self.conditions.folder):
            private_folder(self.conditions.folder)
        folder = self.conditions.folder / f"search-{images}"
        return RunDirectory(folder, identity | asdict(self.attack), self.conditions.device)

    def _begin(self, number: int, start: Tensor) -> "Candidates":
        """What is optimised for one batch of images, (N, 3, H, W), as it is before the first step."""
        device = self.conditions.device
        if self.attack.prior == "image":
            return Candidates(Pixels(start).to(device.torch), self.attack.lr)
        generator = step_generator(self.conditions.seed, number, stream=6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            network = device.place(UNet(UNetConfig(widths=NETWORK_WIDTHS)))
        noise = torch.rand(len(start), NOISE_CHANNELS, *start.shape[2:], generator=generator)
        return Candidates(Weights(network, noise.to(device.torch)), 0.2 * self.attack.lr)

    def _step(self, current: "Candidates", wanted: Tensor, progress: float) -> Tensor:
        """Move the candidates of one batch towards `wanted`, float (N, 3, H', W') in [0, 1]; their losses (N,)."""
        set_rates([current.optimizer], "cosine", progress)
        current.optimizer.zero_grad()
        with self.conditions.device.autocast():
            images = current.free().float()
            shown = self.transformation(images).float()
        losses = (shown - wanted).square().mean(dim=(1, 2, 3)) + self.attack.variation * total_variation(images)
        current.free.total(losses).backward(inputs=list(current.free.parameters()))
        current.optimizer.step()
        current.free.keep_range()
        return losses

    @torch.no_grad()
    def _answer(self, current: "Candidates", wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates as uint8 images (N, 3, H, W), and what remains between their protected selves and `wanted`."""
        with self.conditions.device.autocast():
            images = current.free().float().clamp(0, 1)
        distance = (self.transformation(images) - wanted).square().mean(dim=(1, 2, 3))
        return (images * 255).round().to(torch.uint8).cpu(), distance.cpu()


class Pixels(nn.Module):
    """Candidates whose pixels are free, each image on its own; begins at `start`, float (N, 3, H, W) in [0, 1]."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """The candidates."""
        return self.images

    def total(self, losses: Tensor) -> Tensor:
        """What is minimised, of losses (N,).

        Sums over images and values: no image depends on another, and the gradients of single values, millionths as
        means, stay far above the 1e-8 that Adam adds to its denominator.
        """
        return self.images[0].numel() * losses.sum()

    @torch.no_grad()
    def keep_range(self) -> None:
        """Put values that left [0, 1] back to its ends."""
        self.images.clamp_(0, 1)


class Weights(nn.Module):
    """Candidates that a network makes of fixed noise (N, C, H, W): the deep image prior.

    The weights fit the statistics of this batch, so that batch norm stays as in training.
    """

    def __init__(self, network: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.network, self.noise = network, noise

    def forward(self) -> Tensor:
        """The candidates."""
        made: Tensor = self.network(self.noise)
        return made

    def total(self, losses: Tensor) -> Tensor:
        """What is minimised, of losses (N,): their mean."""
        return losses.mean()

    def keep_range(self) -> None:
        """The network ends in a sigmoid."""


class Candidates:
    """What is free in the search of one batch, and the Adam that moves it."""

    def __init__(self, free: Pixels | Weights, lr: float) -> None:
        self.free, self.optimizer = free, torch.optim.Adam(free.parameters(), lr=lr)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference (N,) to the pixels below and to the right of float images (N, 3, H, W)."""
    down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return down.mean(dim=(1, 2, 3)) + right.mean(dim=(1, 2, 3))
