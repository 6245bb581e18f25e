"""Simulate the transformation, learn to undo the simulation, and apply that to the protected images.

SDAR (Zhu et al., arXiv 2310.10483), from split learning to protected images. It needs neither pairs nor an oracle: a
simulator whose images the cloud's classifier understands, and that a discriminator cannot tell from protected ones, is
taken for the transformation itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions, Reconstruction
from imageveil.attacks.knowledge import Knowledge, Transformation
from imageveil.attacks.learning import batch_for, learn, parts_of, to_images
from imageveil.attacks.surrogates import public_network
from imageveil.errors import UsageError
from imageveil.images.augment import crop_and_flip
from imageveil.networks.batch_norm import measure_batch_norm
from imageveil.networks.reconstructors import LabelFront, Reconstructor
from imageveil.networks.sdar import ConvSimulator, LabelledCritic
from imageveil.networks.unet import UNet, UNetConfig
from imageveil.presets.ranges import Count, Natural, Rate, Share, Weight, Widths
from imageveil.schemes.controls import SLOPE, RandomConvScheme
from imageveil.training.loop import epoch_batches, step_generator
from imageveil.training.optimizers import set_rates

SAMPLE = 5000
"""Protected images, from the first on, that the decoder's batch norm is measured on."""

OWN_STREAM = 8
"""Of the random numbers that first weights are drawn from (see `step_generator`)."""


@dataclass(frozen=True, kw_only=True)
class SDAR(Attack):
    """Train simulator, decoder and two discriminators together.

    Attributes:
        steps: number of steps.
        batch: images of 32x32 pixels of either kind a step; of larger ones as many fewer (see `batch_for`).
        lr: Adam's rate for simulator and decoder, falling to zero along a cosine.
        critic_lr: Adam's rate for the discriminators, falling likewise.
        lambda1: weight of the discriminator that tells simulated from protected images.
        lambda2: weight of the discriminator that tells decoded protected images from plain ones.
        flips: share of labels in whose place decoder and discriminators get one drawn from all classes, so that neither
            leans on them alone.
        widths: channels of the decoder, a U-Net, at full, half, quarter, ... resolution.
        padding: pixels of the random crop of the attacker's plain images.
    """

    name: ClassVar[str] = "sdar"
    threats: ClassVar[tuple[str, ...]] = ("recipe",)
    schemes: ClassVar[tuple[str, ...] | None] = ("learned", "random-conv")
    needs_classifier: ClassVar[bool] = True
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 20_000, "batch": 128, "widths": (64, 128, 256)},
        "quick": {},
        "smoke": {"steps": 10, "batch": 16, "widths": (8, 16)},
    }

    steps: Count = 5000
    batch: Count = 32
    lr: Rate = 1e-3
    critic_lr: Rate = 2e-4
    lambda1: Weight = 0.5
    lambda2: Weight = 0.01
    flips: Share = 0.1
    widths: Widths = (32, 64, 128)
    padding: Natural = 2

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not 0 <= self.flips <= 1:
            raise UsageError("steps and batch must be positive, and flips a share from 0 to 1")

    def fit(
        self, knowledge: Knowledge, conditions: Conditions | None = None, *, stop_after: int | None = None
    ) -> Reconstruction:
        """Train all four networks; `stop_after` leaves after so many steps, as if interrupted. See `Attack.fit`."""
        self.require(knowledge)
        conditions = conditions or Conditions()
        game = Game(self, knowledge, conditions)
        learn(
            self,
            game.networks,
            game.optimizers,
            game.step,
            knowledge=knowledge,
            steps=self.steps,
            batch=game.batch,
            conditions=conditions,
            stop_after=stop_after,
        )
        game.measure_statistics()
        assert knowledge.classifier is not None
        return Decoded(game.networks["decoder"], knowledge.classifier, conditions)


class Decoded(Reconstruction):
    """The decoder; where there are no labels it takes those that the cloud's classifier gives."""

    def __init__(self, decoder: nn.Module, classifier: Transformation, conditions: Conditions) -> None:
        self.decoder, self.classifier, self.conditions = decoder, classifier, conditions

    @torch.no_grad()
    def reconstruct(self, protected: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decode; see `Reconstruction.reconstruct`."""
        device = self.conditions.device
        out, done = [], 0
        # The parts of `to_images`, so that every call of the decoder gets the labels of its images.
        for part in parts_of(protected):
            told = None if labels is None else labels[done : done + len(part)].to(device.torch)
            own = self.classifier(device.batch(part)).argmax(1) if told is None else told
            done += len(part)

            def decode(images: Tensor, own: Tensor = own) -> Tensor:
                decoded: Tensor = self.decoder(images, own)
                return decoded

            out.append(to_images(decode, part, self.conditions))
        return torch.cat(out)


class Game:
    """The networks of one run and their steps.

    Raises:
        UsageError: there are no labels, or the architecture of the transformation is not known.
    """

    def __init__(self, attack: SDAR, knowledge: Knowledge, conditions: Conditions) -> None:
        if knowledge.labels is None:
            raise UsageError("sdar needs labels; arrange the images as class/file or use Parquet with 'label'")
        if knowledge.plain_labels is None:
            raise UsageError(
                "sdar needs plain images with labels of the same classes as the protected ones; leave --plain out, or "
                "give one with these classes"
            )
        assert knowledge.classifier is not None
        self.attack, self.knowledge, self.conditions = attack, knowledge, conditions
        self.labels, self.plain_labels, self.classifier = (
            knowledge.labels,
            knowledge.plain_labels,
            knowledge.classifier,
        )
        with torch.no_grad(), conditions.device.autocast():
            answers = self.classifier(conditions.device.batch(knowledge.plain[:1])).shape[1]
        self.classes = max(answers, int(max(self.labels.max(), self.plain_labels.max())) + 1)
        affordable = batch_for(attack.batch, knowledge.protected)
        self.batch = min(affordable, len(knowledge.protected), len(knowledge.plain))
        height, width = knowledge.protected.shape[-2:]
        # A stream of the attacker's own: the owner's networks may start from the same seed in the same architecture.
        torch.manual_seed(step_generator(conditions.seed, 0, stream=OWN_STREAM).initial_seed())
        self.networks: dict[str, nn.Module] = {
            "simulator": make_simulator(knowledge),
            "decoder": Reconstructor(LabelFront((height, width), self.classes), widths=attack.widths),
            "protected_critic": LabelledCritic(self.classes),
            "plain_critic": LabelledCritic(self.classes),
        }
        for network in self.networks.values():
            conditions.device.place(network)
        self.makers = [p for name in ("simulator", "decoder") for p in self.networks[name].parameters()]
        critics = [p for name in ("protected_critic", "plain_critic") for p in self.networks[name].parameters()]
        self.optimizers = [
            torch.optim.Adam(self.makers, lr=attack.lr, betas=(0.5, 0.999)),
            torch.optim.Adam(critics, lr=attack.critic_lr, betas=(0.5, 0.999)),
        ]

    def step(self, number: int) -> dict[str, Tensor]:
        """One step of simulator and decoder, then one of the discriminators."""
        attack, device, seed = self.attack, self.conditions.device, self.conditions.seed
        set_rates(self.optimizers, "cosine", number / attack.steps)
        generator = step_generator(seed, number)
        of_plain = epoch_batches(len(self.knowledge.plain), self.batch, seed, number, device)
        of_protected = epoch_batches(len(self.knowledge.protected), self.batch, seed + 1, number, device)
        plain = device.batch(crop_and_flip(self.knowledge.plain[of_plain], generator, padding=attack.padding))
        seen = device.batch(self.knowledge.protected[of_protected])
        labels = self.plain_labels[of_plain].to(device.torch)
        told = self._flipped(self.plain_labels[of_plain], generator)
        seen_told = self._flipped(self.labels[of_protected], generator)
        # Protected images are rounded; noise of half a step on both sides keeps a discriminator from seeing that.
        blur = [(torch.rand(plain.shape, generator=generator) - 0.5).to(device.torch) / 255 for _ in range(2)]
        seen = seen + blur[0]
        simulator, decoder = self.networks["simulator"], self.networks["decoder"]
        critics = self.networks["protected_critic"], self.networks["plain_critic"]
        with device.autocast():
            simulated = simulator(plain).float() + blur[1]
            understood = F.cross_entropy(self.classifier(simulated).float(), labels)
            decoded = decoder(simulated.detach(), told).float()
            revealed = decoder(seen, seen_told).float()
            passed = _verdict(critics[0](simulated, told), True)
            natural = _verdict(critics[1](revealed, seen_told), True)
        error = F.mse_loss(decoded, plain)
        loss = understood + attack.lambda1 * passed + error + attack.lambda2 * natural
        self.optimizers[0].zero_grad()
        loss.backward(inputs=self.makers)
        self.optimizers[0].step()
        with device.autocast():
            judged = (
                _verdict(critics[0](seen, seen_told), True)
                + _verdict(critics[0](simulated.detach(), told), False)
                + _verdict(critics[1](plain, told), True)
                + _verdict(critics[1](revealed.detach(), seen_told), False)
            )
        self.optimizers[1].zero_grad()
        judged.backward()
        self.optimizers[1].step()
        return {"understood": understood, "passed": passed, "error": error, "natural": natural, "critics": judged / 4}

    def measure_statistics(self) -> None:
        """Measure the decoder's batch norm anew, on protected images with their labels.

        In training it is shown simulated ones in turn, so that its running statistics are those of a mixture.
        """
        decoder, device = self.networks["decoder"], self.conditions.device
        batches = max(1, min(len(self.knowledge.protected), SAMPLE) // self.batch)
        parts = [slice(self.batch * at, self.batch * (at + 1)) for at in range(batches)]
        shown = ((device.batch(self.knowledge.protected[part]), self.labels[part].to(device.torch)) for part in parts)
        with device.autocast():
            measure_batch_norm(decoder, shown)

    def _flipped(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Replace a share of labels (N,) by random ones."""
        wrong = torch.rand(len(labels), generator=generator) < self.attack.flips
        drawn = torch.randint(self.classes, labels.shape, generator=generator)
        return torch.where(wrong, drawn, labels).to(self.conditions.device.torch)


def make_simulator(knowledge: Knowledge) -> nn.Module:
    """A network of the transformation's public architecture; it starts from the public weights, if there are any.

    Raises:
        UsageError: the recipe does not say what the network looks like.
    """
    if (init := knowledge.recipe.get("init")) is not None:
        return public_network(str(init))
    if knowledge.scheme.name == RandomConvScheme.name:
        return ConvSimulator(RandomConvScheme.widths, SLOPE)
    shape = knowledge.recipe.get("architecture")
    if shape is None:
        raise UsageError("sdar needs the public architecture of the transformation; its recipe names none")
    return UNet(UNetConfig(**{**shape, "widths": tuple(shape["widths"])}))


def _verdict(scores: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of scores (N,) that should say real, or should not."""
    wanted = torch.ones_like(scores) if real else torch.zeros_like(scores)
    return F.binary_cross_entropy_with_logits(scores.float(), wanted.float())
