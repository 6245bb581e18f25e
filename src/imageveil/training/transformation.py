"""The one trainer of transformation networks: CycleGAN, and the terms that hide better; a preset chooses the terms."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, judged
from imageveil.images.augment import crop_and_flip, zoomed
from imageveil.networks.batch_norm import measure_batch_norm
from imageveil.networks.feature_extractor import FeatureExtractor
from imageveil.networks.patchgan import PatchGAN
from imageveil.networks.unet import EncoderClassifier, UNet, UNetConfig
from imageveil.presets import TransformationConfig
from imageveil.training import objectives
from imageveil.training.device import Device, average_buffers, average_gradients
from imageveil.training.loop import epoch_batches, require_size, run_steps, seed_weights, step_generator
from imageveil.training.optimizers import set_rates
from imageveil.training.run_directory import RunDirectory

SAMPLE = 5000
"""Training images, from the first on, that the mean image and the statistics of batch norm are measured on."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What training starts from.

    Attributes:
        data: plain images, with labels where a term needs them.
        classifier: h_theta, for Eq. 8.
        preliminary: P, uint8 (M, 3, H, W), for Eq. 4 and the way back.
        origin: for each image of P the index in `data` of the image it was made from.
        encoder: a plain classifier to start warm from.
        start: a transformation network to continue from.
        field: the fixed pattern of the transformation network; None leaves the one it has.
    """

    data: ImageArrays
    classifier: nn.Module | None = None
    preliminary: Tensor | None = None
    origin: Tensor | None = None
    encoder: EncoderClassifier | None = None
    start: UNet | None = None
    field: Tensor | None = None


def forward_shape(config: TransformationConfig) -> UNetConfig:
    """The shape of G_AB."""
    return UNetConfig(widths=config.widths, head=config.head, top_skip=config.top_skip, field=config.field)


class TransformationTrainer:
    """Holds the networks of one run and does its steps.

    Raises:
        UsageError: the preset needs an ingredient that is not there, or larger images.
    """

    def __init__(self, ingredients: Ingredients, config: TransformationConfig, *, seed: int, device: Device) -> None:
        self.config, self.seed, self.device, self.given = config, seed, device, ingredients
        if config.gamma2 and ingredients.classifier is None:
            raise UsageError("this preset needs a classifier h_theta; train one first or set gamma2=0")
        if (config.lambda_ or config.two_way) and ingredients.preliminary is None:
            raise UsageError("this preset needs preliminary protected images; make them first or set lambda_=0")
        if config.gamma2 or config.joint or config.two_way:
            ingredients.data.require_labels()
        require_size(ingredients.data.images, config.padding + 1, f"a crop with padding={config.padding}")
        seed_weights(seed)
        backward_shape = UNetConfig(widths=config.backward_widths, top_skip=len(config.backward_widths) > 3)
        forward = ingredients.start or UNet(forward_shape(config))
        if ingredients.encoder is not None and ingredients.start is None:
            forward.encoder.load_state_dict(ingredients.encoder.encoder.state_dict())
        if ingredients.field is not None:
            forward.encoder.field.copy_(ingredients.field)
        self.networks: dict[str, nn.Module] = {"forward": forward}
        if config.gamma3 or config.two_way:
            self.networks["backward"] = UNet(backward_shape)
        if config.viewer:
            shape = UNetConfig(widths=config.viewer_widths, outputs=4, head="linear", top_skip=False)
            self.networks["viewer"] = UNet(shape)
        if config.joint or config.distil:
            self.networks["joint"] = self._joint_classifier()
        if config.lambda_:
            size = {"width": config.discriminator_width, "strided": config.discriminator_strided}
            smallest = PatchGAN.smallest(config.discriminator_strided)
            require_size(ingredients.data.images, smallest, f"discriminator_strided={config.discriminator_strided}")
            self.networks["F_B"] = PatchGAN(**size)
            if config.two_way:
                self.networks["F_A"] = PatchGAN(**size)
        for network in self.networks.values():
            device.place(network).train()
        self.teacher: EncoderClassifier | None = None
        self.extractor = self.classifier = None
        if config.distil:
            assert ingredients.encoder is not None
            device.place(objectives.frozen(ingredients.encoder))
            self.teacher = ingredients.encoder
        if config.gamma1:
            self.extractor = objectives.frozen(device.place(FeatureExtractor()))
        if ingredients.classifier is not None and config.gamma2:
            self.classifier = objectives.frozen(device.place(ingredients.classifier))
        judges = {"F_A", "F_B"}
        betas = (0.5, 0.999)
        self.makers = [p for name, network in self.networks.items() if name not in judges for p in network.parameters()]
        self.optimizers = [torch.optim.Adam(self.makers, lr=config.lr, betas=betas)]
        if config.lambda_:
            parameters = [p for name in sorted(judges & set(self.networks)) for p in self.networks[name].parameters()]
            self.optimizers.append(torch.optim.Adam(parameters, lr=config.discriminator_lr, betas=betas))
        sample = judged(ingredients.data, SAMPLE).images
        self.mean_image = (sample.float().mean(dim=0, keepdim=True) / 255).to(device.torch)

    def _joint_classifier(self) -> nn.Module:
        """A classifier of protected images that starts from the plain one, without its field."""
        shape = UNetConfig(widths=self.config.widths)
        joint = EncoderClassifier(shape, max(len(self.given.data.classes), 1))
        if self.given.encoder is not None:
            state = self.given.encoder.state_dict()
            state["encoder.stem.0.weight"] = state["encoder.stem.0.weight"][:, :3]
            state["encoder.field"] = joint.encoder.field
            joint.load_state_dict(state)
        return joint

    def step(self, step: int) -> dict[str, Tensor]:
        """Do one step: all generators, classifier and viewer together, then the discriminators."""
        config, networks, device = self.config, self.networks, self.device
        if not config.constant_rate:
            set_rates(self.optimizers, "cosine", step / config.steps)
        generator = step_generator(self.seed, step * device.world + device.rank)
        x, labels, labelled = self._plain_batch(step, generator)
        values: dict[str, Tensor] = {}
        zero = torch.zeros((), device=device.torch)
        with device.autocast():
            protected = networks["forward"](x).float()
            shown = protected
            if config.rounding:
                shown = shown + (torch.rand(shown.shape, generator=generator).to(device.torch) - 0.5) / 255
            x_p, p_labels, p_plain = self._preliminary_batch(step) if self.given.preliminary is not None else (x,) * 3
            restored = networks["backward"](shown).float() if "backward" in networks else x
            plain_again = networks["backward"](x_p).float() if config.two_way else x
            p_again = networks["forward"](plain_again).float() if config.two_way else x_p
            perceptual = classification = zero
            if self.extractor is not None:
                ahead = objectives.feature_distance(self.extractor(x), self.extractor(protected))
                back = (
                    objectives.feature_distance(self.extractor(p_plain), self.extractor(plain_again))
                    if config.two_way
                    else zero
                )
                values["L_p"] = perceptual = objectives.perceptual_loss(ahead, back, margin=config.margin)
            if self.classifier is not None:
                logits = self.classifier(shown[labelled])
                if config.two_way:
                    classification = objectives.classification_loss(
                        logits, labels[labelled], self.classifier(plain_again), p_labels
                    )
                else:
                    classification = F.cross_entropy(logits.float(), labels[labelled])
                values["L_c"] = classification
            reconstruction = F.mse_loss(restored, x)
            if config.two_way:
                reconstruction = objectives.reconstruction_loss(restored, x, p_again, x_p)
            if "backward" in networks:
                values["L_r"] = reconstruction
                values["inverse"] = F.mse_loss(restored, x).detach() / (x - self.mean_image).square().mean()
                if not config.two_way:
                    # Alone, the error is counted in shares of the variance, like the viewer's it competes with.
                    reconstruction = reconstruction / (x - self.mean_image).square().mean()
            cycle = objectives.cycle_loss(
                perceptual,
                classification,
                reconstruction,
                gamma1=config.gamma1,
                gamma2=config.gamma2,
                gamma3=config.gamma3,
            )
            adversarial = [zero, zero]
            if config.lambda_:
                adversarial[1] = objectives.adversarial_loss(networks["F_B"](shown))
                values["L_ad"] = adversarial[1]
                if config.two_way:
                    adversarial[0] = objectives.adversarial_loss(networks["F_A"](plain_again))
            loss = objectives.generative_loss(adversarial[0], adversarial[1], cycle, lambda_=config.lambda_)
            if "joint" in networks:
                loss = loss + self._learnable(x, shown, labels, labelled, values)
            if "viewer" in networks:
                loss = loss + self._hidden(x, shown, values)
        loss.backward()
        average_gradients(device, iter(self.makers))
        self.optimizers[0].step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if config.lambda_:
            values["D"] = self._judge(x, shown.detach(), x_p, plain_again.detach())
        return values

    def _plain_batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented plain images, their labels, and which of them show their whole subject."""
        data, config = self.given.data, self.config
        indices = epoch_batches(len(data), min(config.batch, len(data)), self.seed, step, self.device)
        x = self.device.batch(crop_and_flip(data.images[indices], generator, padding=config.padding))
        labels = data.labels[indices] if data.labels is not None else torch.zeros(len(indices), dtype=torch.long)
        # A share of few images may be none; the terms that need labels cannot do without.
        whole = max(1, round(len(x) * (1 - config.zoom)))
        if whole < len(x):
            scale = int(torch.randint(2, 5, (1,), generator=generator))
            x = torch.cat([x[:whole], zoomed(x[whole:], generator, scale=scale)])
        return x, labels.to(self.device.torch), torch.arange(whole)

    def _preliminary_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of P with the labels and plain images it was made from."""
        assert self.given.preliminary is not None and self.given.origin is not None
        size = min(self.config.batch, len(self.given.preliminary))
        picked = epoch_batches(len(self.given.preliminary), size, self.seed + 1, step, self.device)
        origin = self.given.origin[picked]
        labels = self.given.data.require_labels()[origin].to(self.device.torch)
        return (
            self.device.batch(self.given.preliminary[picked]),
            labels,
            self.device.batch(self.given.data.images[origin]),
        )

    def _learnable(
        self, x: Tensor, shown: Tensor, labels: Tensor, labelled: Tensor, values: dict[str, Tensor]
    ) -> Tensor:
        """The loss of the classifier that learns along: its labels, and a plain classifier's features."""
        joint = self.networks["joint"]
        assert isinstance(joint, EncoderClassifier)
        maps = joint.features(shown)
        logits = joint.head(maps[-1].amax(dim=(2, 3)))[labelled].float()
        loss = self.config.joint * F.cross_entropy(logits, labels[labelled], label_smoothing=0.1)
        values["joint"] = (logits.argmax(1) == labels[labelled]).float().mean()
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher.features(x)
            levels = self.config.distil_levels or len(maps)
            values["distil"] = objectives.distillation_loss(maps[:levels], wanted[:levels])
            loss = loss + self.config.distil * values["distil"]
        return loss

    def _hidden(self, x: Tensor, shown: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Teach the viewer and reward the transformation for its errors, in one pass through the viewer.

        The viewer descends its error; the transformation gets the same gradient with the sign turned, as long as an
        error is below the bound.
        """
        watched = shown.detach().requires_grad_()
        scores = objectives.viewer_scores(self.networks["viewer"](watched), x, self.mean_image)
        values["seen_image"], values["seen_outlines"] = scores.image, scores.outlines
        reward = self.config.viewer * scores.bounded(self.config.viewer_bound)
        (upwards,) = torch.autograd.grad(reward, watched, retain_graph=True)
        # The value is the viewer's loss and the gradient of `shown` that of -reward.
        return scores.image + scores.outlines - (shown * upwards.detach()).sum()

    def _judge(self, x: Tensor, protected: Tensor, x_p: Tensor, plain_again: Tensor) -> Tensor:
        """One step of the discriminators; returns the mean of their losses."""
        pairs = [("F_B", x_p, protected)]
        if self.config.two_way:
            pairs.append(("F_A", x, plain_again))
        with self.device.autocast():
            losses = [
                objectives.discriminator_loss(self.networks[name](real), self.networks[name](made))
                for name, real, made in pairs
            ]
        total = torch.stack(losses).sum()
        total.backward()
        average_gradients(self.device, (p for name, *_ in pairs for p in self.networks[name].parameters()))
        self.optimizers[1].step()
        self.optimizers[1].zero_grad()
        return total / len(losses)

    def measure_statistics(self) -> None:
        """Measure batch norm's running statistics anew: of G_AB on plain images, of G_BA on protected ones.

        With both cycles, G_AB is also shown G_BA(x_p), and G_BA also x_p. Each batch is normalised by itself, but the
        running statistics, by which the finished networks normalise, are then those of a mixture that neither is
        meant for.
        """
        forward, backward = self.networks["forward"], self.networks["backward"]
        batches = torch.split(judged(self.given.data, SAMPLE).images, self.config.batch)
        with self.device.autocast(), torch.no_grad():
            measure_batch_norm(forward, ((self.device.batch(images),) for images in batches))
            forward.eval()
            measure_batch_norm(backward, ((forward(self.device.batch(images)).float(),) for images in batches))

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take what `state` returned."""
        for name, network in self.networks.items():
            network.load_state_dict(saved["networks"][name])
        for optimizer, content in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(content)


def train_transformation(
    ingredients: Ingredients,
    config: TransformationConfig,
    *,
    seed: int,
    device: Device,
    run: RunDirectory | None = None,
    stop_after: int | None = None,
) -> tuple[TransformationTrainer, float]:
    """Train a transformation network.

    Returns:
        The trainer, whose `networks["forward"]` is h_p, and the seconds it took over all calls.

    Raises:
        UsageError: an ingredient is missing.
        RunError: the loss is not finite, or a checkpoint could not be written.
    """
    trainer = TransformationTrainer(ingredients, config, seed=seed, device=device)
    seconds = run_steps(
        title=f"transformation on {ingredients.data.name}",
        total=config.steps,
        batch=config.batch,
        step_fn=trainer.step,
        state=trainer.state,
        restore=trainer.restore,
        run=run,
        device=device,
        stop_after=stop_after,
    )
    if config.two_way:
        trainer.measure_statistics()
    for network in trainer.networks.values():
        average_buffers(device, network)
    return trainer, seconds
