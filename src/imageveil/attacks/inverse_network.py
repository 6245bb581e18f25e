"""A network learns the way back from protected to plain images, from pairs of both.

The inverse transformation network of Ito, Kinoshita and Kiya (arXiv 2008.03143), with a first layer made for the
scheme: the attacker knows the published algorithm.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge, Oracle, Pairs, PublicScheme
from imageveil.attacks.learning import batch_for, learn, to_images, trained_seconds
from imageveil.attacks.losses import make_loss
from imageveil.attacks.surrogates import own_scheme
from imageveil.errors import UsageError
from imageveil.images.augment import crop_and_flip
from imageveil.networks.reconstructors import (
    BlockFront,
    DenseFront,
    FieldFront,
    Front,
    PositionFront,
    Reconstructor,
)
from imageveil.presets.ranges import Count, Natural, Rate, Widths
from imageveil.training.loop import epoch_batches, require_size, step_generator
from imageveil.training.optimizers import set_rates

FRONTS = {
    "learned": "field",
    "pixel-same": "position",
    "pixel-different": "position",
    "tanaka": "block",
    "block-shuffle": "block",
    "block-negative": "block",
    "block-ffx": "block",
    "extended": "dense",
    "compressible": "dense",
    "block-permute": "dense",
    "shuffle": "dense",
    "patch-permutation": "dense",
}
"""The first layer for each published algorithm; `plain` for those that are not listed."""

HALVED = ("tanaka", "extended")
"""Algorithms that move the halves of bytes."""

LARGEST_DENSE = 8192
"""Values of an image up to which a map of the whole image is affordable."""

VIEW_PIXELS = 4000 * 32 * 32
"""Pixels that are cropped and mirrored at a time."""

POSITION_RATE = 10
"""Factor on the learning rate of weights that serve one pixel: they have far to go, and sit behind no batch norm."""


@dataclass(frozen=True, kw_only=True)
class InverseNetwork(Attack):
    """Learn the inverse from pairs of plain and protected images.

    Attributes:
        network: `unet`, or `residual` for eight pre-activation blocks of 64 channels.
        front: the first layer: `plain`, `field`, `position`, `block`, `dense` (see `networks/reconstructors.py`), or
            `auto` for the one that suits the algorithm.
        widths: channels of the U-Net at full, half, quarter, ... resolution.
        loss: `mse`, `mse-ssim`, `sign-free` or `perceptual`; see `imageveil.attacks.losses`.
        steps: number of steps.
        batch: images of 32x32 pixels a step; of larger ones as many fewer (see `batch_for`).
        lr: Adam's rate, falling to zero along a cosine.
        renew: epochs after which an attacker with an oracle crops and mirrors its images anew and has them protected.
        padding: pixels of that crop. Known pairs are not augmented: their protected halves cannot be.
        surrogate: under `recipe`, schemes that the attacker made by the same recipe, by name or path; none takes what
            `Knowledge.recipe` holds, or a key of the attacker's own (see `imageveil.attacks.surrogates`).
    """

    name: ClassVar[str] = "inverse-network"
    threats: ClassVar[tuple[str, ...]] = ("recipe", "pairs", "oracle", "gradients")
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 9750, "widths": (64, 128, 256, 384), "renew": 1},
        "quick": {},
        "smoke": {"steps": 30, "batch": 32, "widths": (32, 48)},
    }
    # The least squared error is a blur: another loss may show more, and so may another kind of network.
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"loss": "perceptual"}, {"network": "residual"})
    more_variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"loss": "mse-ssim"}, {"loss": "sign-free"})

    network: str = "unet"
    front: str = "auto"
    widths: Widths = (32, 64, 128, 192)
    loss: str = "mse"
    steps: Count = 3000
    batch: Count = 128
    lr: Rate = 1e-3
    renew: Count = 5
    padding: Natural = 2
    surrogate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.network not in ("unet", "residual"):
            raise UsageError(f"there is no network {self.network!r}; use unet or residual")
        if min(self.steps, self.batch, self.renew) < 1:
            raise UsageError("steps, batch and renew must be positive")

    @classmethod
    def in_budget(cls, budget: str) -> Self:
        """The attack as one of its budgets has it, for attacks that use one.

        Raises:
            UsageError: there is no such budget.
        """
        if budget not in cls.budgets:
            raise UsageError(f"there is no budget {budget!r}; use one of: {', '.join(cls.budgets)}")
        return cls(**cls.budgets[budget])

    @classmethod
    def threats_against(cls, scheme: str, values: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """Only an attacker without pairs of the scheme itself has a use for a surrogate. See `Attack`."""
        return ("recipe",) if values.get("surrogate") else super().threats_against(scheme, values, recipe)

    def require(self, knowledge: Knowledge) -> None:
        """Also refuse a surrogate under other threats than `recipe`. See `Attack.require`."""
        super().require(knowledge)
        if self.surrogate and knowledge.threat != "recipe":
            raise UsageError(
                f"surrogate={','.join(self.surrogate)} is for the threat recipe, not {knowledge.threat}, whose "
                "attacker has pairs of the scheme itself; leave it out"
            )

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Reconstruction:
        """Train the network; `stop_after` leaves after so many steps, as if interrupted. See `Attack.fit`."""
        self.require(knowledge)
        conditions = conditions or Conditions()
        oracle, own = knowledge.oracle, ""
        if knowledge.threat == "recipe":
            scheme = own_scheme(knowledge, conditions.seed, made=self.surrogate)
            oracle, own = scheme.oracle, scheme.digest
        return train_inverse(self, knowledge, oracle, conditions, own=own, stop_after=stop_after)


class Inverse(Reconstruction):
    """A network from protected to plain images, and how many images it learned from."""

    def __init__(self, network: torch.nn.Module, conditions: Conditions, images: int) -> None:
        self.network, self.conditions, self.images = network, conditions, images

    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Apply the network; see `Reconstruction.reconstruct`."""
        return to_images(self.network, protected, self.conditions)

    def figures(self) -> dict[str, float]:
        """The number of different images in training."""
        return {"training_images": float(self.images)} if self.images else {}


class TrainingPairs:
    """The pairs of one epoch: those known, or views of plain images that the oracle protects.

    Args:
        knowledge: what the attacker has.
        oracle: protects uint8 images; None takes the known pairs.
        seed: decides the views.
        renew: epochs after which plain images are cropped, mirrored and protected anew.
        padding: pixels of that crop; 0 neither crops nor mirrors.

    Raises:
        UsageError: the attacker has neither pairs nor an oracle.
    """

    def __init__(self, knowledge: Knowledge, oracle: Oracle | None, *, seed: int, renew: int, padding: int) -> None:
        if oracle is None and knowledge.known_pairs is None:
            raise UsageError("this attack needs pairs; use --threat pairs or oracle")
        if padding:
            require_size(knowledge.plain, padding + 1, "an attack that crops its images")
        self.known, self.plain, self.oracle = knowledge.known_pairs, knowledge.plain, oracle
        self.seed, self.renew, self.padding = seed, renew, padding
        self.held = -1

    def __len__(self) -> int:
        return len(self.plain) if self.oracle is not None else len(self.known or ())

    def at(self, epoch: int) -> Pairs:
        """The pairs of an epoch; a function of seed and epoch as far as the oracle is one of images and occasion."""
        if self.oracle is None:
            assert self.known is not None
            return self.known
        number = epoch // self.renew
        if number != self.held:
            plain = self._views(number) if self.padding else self.plain
            self.held, self.pairs = number, Pairs(plain=plain, protected=self.oracle(plain, f"views {number}"))
        return self.pairs

    def _views(self, number: int) -> Tensor:
        """The plain images cropped and mirrored, some at a time: where every pixel comes from takes eight bytes."""
        generator = step_generator(self.seed, number, stream=5)
        size = max(1, VIEW_PIXELS // (self.plain.shape[-2] * self.plain.shape[-1]))
        parts = torch.split(self.plain, size)
        return torch.cat([crop_and_flip(part, generator, padding=self.padding) for part in parts])


def train_inverse(
    attack: InverseNetwork,
    knowledge: Knowledge,
    oracle: Oracle | None,
    conditions: Conditions,
    *,
    own: str = "",
    stop_after: int | None = None,
) -> Inverse:
    """Train an inverse network.

    Args:
        attack: its values.
        knowledge: what the attacker has.
        oracle: protects uint8 images; None trains on the known pairs.
        conditions: seed, device and run directory.
        own: digest of the oracle's scheme where it is the attacker's own.
        stop_after: leave after so many steps, as if interrupted.

    Raises:
        UsageError: the attacker has no pairs, or a value is unknown.
    """
    device, seed = conditions.device, conditions.seed
    pairs = TrainingPairs(knowledge, oracle, seed=seed, renew=attack.renew, padding=attack.padding)
    loss_of = make_loss(attack.loss, device)
    height, width = knowledge.plain.shape[-2:]
    size = (knowledge.protected.shape[-2], knowledge.protected.shape[-1])
    torch.manual_seed(seed)
    front = make_front(attack.front, knowledge.scheme, size)
    network = device.place(Reconstructor(front, network=attack.network, widths=attack.widths))
    if isinstance(front, DenseFront):
        first = pairs.at(0)
        down, right = size[0] - height, size[1] - width
        plain = F.pad(first.plain.float(), (0, right, 0, down), mode="replicate").byte()
        front.solve(first.protected, plain)
    own_rate = list(front.parameters()) if isinstance(front, PositionFront) else []
    shared = [p for p in network.parameters() if not any(p is own for own in own_rate)]
    groups: list[dict[str, Any]] = [{"params": shared}]
    if own_rate:
        groups.append({"params": own_rate, "lr": POSITION_RATE * attack.lr})
    optimizer = torch.optim.Adam(groups, lr=attack.lr)
    batch = min(batch_for(attack.batch, knowledge.protected), len(pairs))

    def step(number: int) -> dict[str, Tensor]:
        set_rates([optimizer], "cosine", number / attack.steps)
        given = pairs.at(number // max(len(pairs) // batch, 1))
        picked = epoch_batches(len(pairs), batch, seed, number, device)
        with device.autocast():
            guess = network(device.batch(given.protected[picked])).float()[..., :height, :width]
        loss = loss_of(guess, device.batch(given.plain[picked]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    learn(
        attack,
        {"inverse": network},
        [optimizer],
        step,
        knowledge=knowledge,
        own=own,
        steps=attack.steps,
        batch=batch,
        conditions=conditions,
        stop_after=stop_after,
    )
    return Inverse(network, conditions, len(pairs))


def trained_before(knowledge: Knowledge, conditions: Conditions) -> Inverse | None:
    """An inverse network that was trained on the same scheme and images before, maybe under a weaker threat model.

    Args:
        knowledge: of an attacker who has an oracle.
        conditions: of an attack that can use one.

    Returns:
        The network, read back; None where none is finished, or what is there was learned from something else.
    """
    folder = conditions.trained.get(InverseNetwork.name)
    if folder is None or not (folder / "results.json").is_file():
        return None
    values = json.loads((folder / "config.json").read_text())
    if values.get("given") != knowledge.fingerprint():
        return None
    own = {name: values[name] for name in InverseNetwork.values()}
    attack = InverseNetwork(**own | {"widths": tuple(own["widths"])})
    there = replace(conditions, folder=folder, seed=values["seed"])
    found = train_inverse(attack, replace(knowledge, threat=values["threat"]), knowledge.oracle, there)
    found.seconds_before = trained_seconds(folder)
    return found


def make_front(name: str, scheme: PublicScheme, size: tuple[int, int]) -> Front:
    """Make the first layer of an inverse network.

    Args:
        name: see `InverseNetwork.front`.
        scheme: the published algorithm.
        size: height and width of protected images.

    Raises:
        UsageError: there is no such layer, or it does not fit the images.
    """
    halves = scheme.name in HALVED
    affordable = (6 if halves else 3) * size[0] * size[1] <= LARGEST_DENSE
    smaller = "block" if scheme.block and scheme.block > 1 else "plain"
    if name == "auto":
        name = FRONTS.get(scheme.name, "plain")
        if name == "dense" and not affordable:
            name = smaller
    if name in ("plain", "field"):
        return FieldFront(size, patterns=8 if name == "field" else 0)
    if name == "position":
        return PositionFront(size)
    if name == "block":
        block = scheme.block or 4
        if size[0] % block or size[1] % block:
            raise UsageError(f"images of {size[1]}x{size[0]} pixels have no whole blocks of {block}; use front=plain")
        return BlockFront(block, halves=halves)
    if name == "dense":
        if not affordable:
            raise UsageError(f"images of {size[1]}x{size[0]} pixels are too large for front=dense; use front={smaller}")
        return DenseFront(size, halves=halves)
    raise UsageError(f"there is no front {name!r}; use auto, plain, field, position, block or dense")
