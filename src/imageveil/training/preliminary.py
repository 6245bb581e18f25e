"""Preliminary protected images P: noise that makes h_theta certain of the right label (Eq. 1 to 3 of the paper)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageveil.images.arrays import ImageArrays
from imageveil.presets import PreliminaryConfig
from imageveil.training.device import Device
from imageveil.training.loop import Progress, step_generator


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
) -> tuple[Tensor, float]:
    """Make P for all images of `data`.

    Args:
        classifier: h_theta.
        data: labelled images.
        config: eps, alpha, iterations.
        seed: decides the random start.
        device: where to compute.

    Returns:
        Protected images, uint8 (N, 3, H, W), and the share of them that h_theta classifies right after rounding.
    """
    classifier = device.place(classifier).eval().requires_grad_(False)
    labels = data.require_labels()
    out, right = [], 0
    progress = Progress("preliminary protection", len(data), quiet=device.rank != 0)
    for part in torch.split(torch.arange(len(data)), config.batch):
        images, target = device.batch(data.images[part]), labels[part].to(device.torch)
        generator = step_generator(seed, int(part[0]), stream=2)
        start = (torch.rand(images.shape, generator=generator) * 2 - 1) * config.eps
        protected = project(images + start.to(device.torch), images, config.eps)
        with device.autocast():
            for _ in range(config.iterations):
                protected = protection_step(classifier, protected, images, target, eps=config.eps, alpha=config.alpha)
            rounded = (protected * 255).round().to(torch.uint8)
            right += int((classifier(device.batch(rounded)).argmax(1) == target).sum())
        out.append(rounded.cpu().contiguous())
        progress.update(int(part[-1]) + 1, 1, {"accuracy": right / (int(part[-1]) + 1)})
    return torch.cat(out), right / len(data)
