"""Training and judging classifiers: h_theta on plain images, and the cloud's networks on protected ones."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, judged
from imageveil.images.augment import crop_and_flip
from imageveil.networks.adaptation import Adaptation, Adapted, build_adaptation
from imageveil.networks.classifiers import CLASSIFIERS, describe_classifier
from imageveil.networks.vgg import QuickNet
from imageveil.presets import ClassifierConfig, as_json
from imageveil.schemes.controls import ClassScheme
from imageveil.training.device import Device, average_buffers, average_gradients
from imageveil.training.loop import epoch_batches, require_size, run_steps, seed_weights, step_generator
from imageveil.training.optimizers import build_optimizers, set_rates
from imageveil.training.run_directory import RunDirectory, write_tensors

WHITENING_IMAGES = 2000

Protect = Callable[[Tensor, list[str], torch.Generator | None], Tensor]
"""A scheme's `protect` as the trainer calls it: (uint8 images, keys, generator) -> uint8 images."""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How images are protected on their way into a classifier.

    Attributes:
        protect: the scheme.
        live: protect every augmented view anew, as the client of the paper does; otherwise the images are protected
            once and the cloud augments what it has.
    """

    protect: Protect
    live: bool = True


def build_classifier(config: ClassifierConfig, classes: int, *, inputs: int = 3) -> nn.Module:
    """Make the network a preset names, for images or for the `inputs` channels of an adaptation network.

    Raises:
        UsageError: the preset names no known network, or one that takes images only.
    """
    arguments = describe_classifier(config.network, classes, width=config.width, inputs=inputs)
    return CLASSIFIERS[config.network](**arguments)


def smallest_image(network: nn.Module) -> int:
    """Pixels that an image must have on a side for a network."""
    return int(getattr(network, "smallest", 1))


def train_classifier(
    data: ImageArrays,
    config: ClassifierConfig,
    *,
    seed: int,
    device: Device,
    run: RunDirectory | None = None,
    protection: Protection | None = None,
    network: nn.Module | None = None,
    adaptation: Adaptation | None = None,
    stop_after: int | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train a classifier from scratch.

    Args:
        data: labelled training images.
        config: network and recipe.
        seed: decides initial weights, order and augmentation.
        device: where to train.
        run: directory to log and resume in.
        protection: a scheme between augmentation and network; None trains on plain images.
        network: a network to train instead of the one the preset names.
        adaptation: a network between protection and classifier (see `build_adaptation`), trained along.
        stop_after: see `run_steps`.

    Returns:
        The network whose weights are judged, in eval mode, and `seconds` of steps and of protecting before them, with
        the part spent protecting, `protect_seconds`.

    Raises:
        UsageError: no labels, or images that are too small for the network or its augmentation.
        RunError: the loss is not finite, or the run directory cannot be read or written.
    """
    labels = data.require_labels()
    seed_weights(seed)
    if network is None:
        network = build_classifier(config, len(data.classes), inputs=3 if adaptation is None else adaptation.channels)
    count = len(data)
    protect_seconds = early_seconds = 0.0

    def protected(images: Tensor, keys: list[str], generator: torch.Generator | None) -> Tensor:
        nonlocal protect_seconds
        assert protection is not None
        begun = time.monotonic()
        out = protection.protect(images, keys, generator)
        protect_seconds += time.monotonic() - begun
        return out

    images = data.images
    if protection is not None and not protection.live:
        parts = [slice(start, start + 1000) for start in range(0, count, 1000)]
        images = torch.cat([protected(images[part], data.keys[part], None) for part in parts])
    seen = images[:1]
    if protection is not None and protection.live:
        # Schemes with blocks pad images.
        seen = protection.protect(seen, data.keys[:1], None)
    require_size(data.images, config.padding + 1, f"a crop with padding={config.padding}")
    require_size(seen, smallest_image(network), f"the network {config.network!r}")
    if isinstance(network, QuickNet) and adaptation is None:
        # From all classes, where a folder is sorted by them.
        some = judged(replace(data, images=images), WHITENING_IMAGES)
        sample = some.images
        if protection is not None and protection.live:
            sample = protected(sample, some.keys, step_generator(seed, 0, stream=3))
        network.whiten(sample.float() / 255)
    if adaptation is not None:
        network = Adapted(adaptation, network)
    early_seconds = protect_seconds
    network = device.place(network).train()
    optimizers = build_optimizers(network, config, bf16=device.bf16)
    batch = min(config.batch, count)
    per_epoch = count // batch
    total = config.epochs * per_epoch
    spanned = config.averaging * total
    moving_average = get_ema_multi_avg_fn(1 - 1 / spanned) if spanned > 1 else None
    average = AveragedModel(network, multi_avg_fn=moving_average, use_buffers=True) if moving_average else None
    first_mirrored = torch.rand(count, generator=step_generator(seed, 0, stream=7)) < 0.5

    def step_fn(step: int) -> dict[str, Tensor]:
        indices = epoch_batches(count, batch, seed, step, device)
        generator = step_generator(seed, step * device.world + device.rank)
        mirrored = first_mirrored[indices] ^ (step // per_epoch % 2 == 1) if config.alternate else None
        views = crop_and_flip(
            images[indices], generator, padding=config.padding, reflect=config.reflect, mirrored=mirrored
        )
        if protection is not None and protection.live:
            views = protected(views, [data.keys[int(i)] for i in indices], generator)
        set_rates(optimizers, config.schedule, step / total)
        with device.autocast():
            logits = network(device.batch(views)).float()
        target = labels[indices].to(device.torch)
        loss = F.cross_entropy(logits, target, label_smoothing=config.label_smoothing)
        if adaptation is not None and (extra := adaptation.penalty()) is not None:
            loss = loss + extra
        loss.backward()
        average_gradients(device, network.parameters())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if average is not None:
            average.update_parameters(network)
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}

    def state() -> dict[str, Any]:
        return {
            "network": network.state_dict(),
            "average": average.state_dict() if average is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "protect_seconds": protect_seconds,
            "early_seconds": early_seconds,
        }

    def restore(saved: dict[str, Any]) -> None:
        nonlocal protect_seconds, early_seconds
        network.load_state_dict(saved["network"])
        if average is not None:
            average.load_state_dict(saved["average"])
        for optimizer, content in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        protect_seconds, early_seconds = saved["protect_seconds"], saved["early_seconds"]

    seconds = run_steps(
        title=f"{config.network} on {data.name}",
        total=total,
        batch=batch,
        step_fn=step_fn,
        state=state,
        restore=restore,
        run=run,
        device=device,
        stop_after=stop_after,
    )
    final = average.module if average is not None else network
    average_buffers(device, final)
    return final.eval(), {"seconds": early_seconds + seconds, "protect_seconds": protect_seconds}


@torch.no_grad()
def predict(
    network: nn.Module, data: ImageArrays, *, device: Device, protect: Protect | None = None, batch: int = 500
) -> Tensor:
    """Return the predicted labels (N,), of protected images when a scheme is given."""
    network.eval()
    predictions = []
    for part in torch.split(torch.arange(len(data)), batch):
        images = data.images[part]
        if protect is not None:
            images = protect(images, [data.keys[int(i)] for i in part], None)
        with device.autocast():
            predictions.append(network(device.batch(images)).argmax(1).cpu())
    return torch.cat(predictions)


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of right predictions."""
    return float((predictions == labels).float().mean())


def save_classifier(path: Path, network: nn.Module, config: ClassifierConfig, classes: list[str]) -> None:
    """Write the weights in float16 with all that is needed to build the network again.

    Raises:
        RunError: the file could not be written.
    """
    tensors = {name: _half(tensor) for name, tensor in network.state_dict().items()}
    adaptation = network.adaptation.arguments if isinstance(network, Adapted) else None
    meta = {"config": as_json(config), "classes": classes, "adaptation": adaptation}
    write_tensors(path, tensors, {name: json.dumps(value) for name, value in meta.items()})


def load_classifier(path: Path) -> tuple[nn.Module, list[str]]:
    """Read what `save_classifier` wrote; the network is in eval mode.

    Raises:
        UsageError: the file is missing or no classifier.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
        config, classes = ClassifierConfig(**json.loads(meta["config"])), json.loads(meta["classes"])
        adaptation = (
            build_adaptation(**described) if (described := json.loads(meta.get("adaptation", "null"))) else None
        )
        network = build_classifier(config, len(classes), inputs=3 if adaptation is None else adaptation.channels)
        if adaptation is not None:
            network = Adapted(adaptation, network)
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path} is not a classifier written by imageveil") from error
    return network.eval(), classes


def class_scheme(path: Path) -> ClassScheme:
    """The control `class`, which shows what the classifier in a file predicts and nothing else.

    Raises:
        UsageError: the file is missing or no classifier, or the classifier has an adaptation network in front.
    """
    network, classes = load_classifier(path)
    name = next((name for name, kind in CLASSIFIERS.items() if type(network) is kind), None)
    if name is None:
        raise UsageError(f"{path} was trained behind an adaptation network; give a classifier of plain images")
    with safe_open(path, framework="pt") as file:
        config = ClassifierConfig(**json.loads(file.metadata()["config"]))
    arguments = describe_classifier(name, len(classes), width=config.width)
    return ClassScheme(network, {"network": name, "arguments": arguments})


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() else tensor
