"""Preliminary protected images P: noise that makes h_theta certain of the right label (Eq. 1 to 3 of the paper)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.images.arrays import ImageArrays
from imageveil.presets import PreliminaryConfig
from imageveil.training.device import Device
from imageveil.training.loop import run_steps, step_generator
from imageveil.training.run_directory import RunDirectory


def mean_loss(classifier: nn.Module, protected: Tensor, labels: Tensor) -> Tensor:
    """Eq. 1: the mean loss of h_theta on x + Delta, to be minimised over Delta.

    Args:
        classifier: h_theta, frozen and in eval mode.
        protected: x + Delta, float (N, 3, H, W) in [0, 1].
        labels: int64 (N,).
    """
    return F.cross_entropy(classifier(protected).float(), labels)


def project(protected: Tensor, images: Tensor, eps: float) -> Tensor:
    """Eq. 2: the nearest image with max |x_p - x| at most `eps`, inside [0, 1]."""
    return torch.maximum(torch.minimum(protected, images + eps), images - eps).clamp(0, 1)


def protection_step(
    classifier: nn.Module, protected: Tensor, images: Tensor, labels: Tensor, *, eps: float, alpha: float
) -> Tensor:
    """Eq. 3: one signed step down the loss, then the projection. An attack would step up."""
    variable = protected.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(mean_loss(classifier, variable, labels), variable)
    return project(variable.detach() - alpha * gradient.sign(), images, eps)


def preliminary_protection(
    classifier: nn.Module,
    data: ImageArrays,
    config: PreliminaryConfig,
    *,
    seed: int,
    device: Device,
    run: RunDirectory | None = None,
    stop_after: int | None = None,
) -> tuple[Tensor, float]:
    """Make P for all images of `data`, batch by batch.

    Args:
        classifier: h_theta.
        data: labelled images.
        config: eps, alpha, iterations.
        seed: decides the random start.
        device: where to compute.
        run: where to log and checkpoint; None for a run that leaves nothing.
        stop_after: leave after this many batches of this call, with a checkpoint, as if interrupted.

    Returns:
        Protected images, uint8 (N, 3, H, W), and the share of them that h_theta classifies right after rounding.

    Raises:
        UsageError: `data` has no labels.
        RunError: the run directory cannot be used.
    """
    classifier = device.place(classifier).eval().requires_grad_(False)
    labels = data.require_labels()
    parts = torch.split(torch.arange(len(data)), config.batch)
    out = torch.zeros_like(data.images)
    right = torch.zeros(len(data), dtype=torch.bool)

    def protect(number: int) -> dict[str, Tensor]:
        part = parts[number]
        images, target = device.batch(data.images[part]), labels[part].to(device.torch)
        generator = step_generator(seed, int(part[0]), stream=2)
        start = (torch.rand(images.shape, generator=generator) * 2 - 1) * config.eps
        protected = project(images + start.to(device.torch), images, config.eps)
        with device.autocast():
            for _ in range(config.iterations):
                protected = protection_step(classifier, protected, images, target, eps=config.eps, alpha=config.alpha)
            rounded = (protected * 255).round().to(torch.uint8)
            correct = classifier(device.batch(rounded)).argmax(1) == target
        out[part], right[part] = rounded.cpu(), correct.cpu()
        return {"accuracy": correct.float().mean()}

    def restore(saved: dict[str, Tensor]) -> None:
        out.copy_(saved["protected"])
        right.copy_(saved["right"])

    run_steps(
        title="preliminary protection",
        total=len(parts),
        batch=config.batch,
        step_fn=protect,
        state=lambda: {"protected": out, "right": right},
        restore=restore,
        run=run,
        device=device,
        stop_after=stop_after,
    )
    return out, float(right.float().mean())
