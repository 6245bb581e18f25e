"""What attacks that train networks share: resumable training, and images out of a trained network."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from imageveil.attacks.base import Attack, Conditions
from imageveil.attacks.knowledge import Knowledge
from imageveil.training.device import average_buffers, average_gradients
from imageveil.training.loop import run_steps
from imageveil.training.run_directory import RunDirectory, write_tensors

WEIGHTS = "networks.safetensors"

BATCH_PIXELS = 32 * 32
BATCH_AT_ONCE = 250
LEAST_BATCH = 8
"""Batch norm needs some images."""


def learn(
    attack: Attack,
    networks: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    step_fn: Callable[[int], dict[str, Tensor]],
    *,
    knowledge: Knowledge,
    steps: int,
    batch: int,
    conditions: Conditions,
    own: str = "",
    stop_after: int | None = None,
) -> float:
    """Train an attack's networks, in its run directory when it has one.

    A finished run is not repeated: its weights are read back. An interrupted one continues from its checkpoint.

    Args:
        attack: whose values are the run's configuration, with seed, threat model and what the attacker was given; a
            directory of another configuration is refused.
        networks: networks by name, placed on the device; left in eval mode.
        optimizers: their optimizers. Where several processes share every batch, each steps by the gradients' average.
        step_fn: does one step, drawing all its randomness from (seed, step), and returns scalars to log.
        knowledge: what the networks learn from.
        steps: number of steps.
        batch: images a step, for the rate that is shown.
        conditions: seed, device and run directory.
        own: says what else they learn from, such as the digest of a scheme of the attacker's own.
        stop_after: leave after this many steps, as if interrupted.

    Returns:
        Seconds of training over all calls.

    Raises:
        UsageError: the run directory holds a run of another attack, of other values or on other images.
        RunError: a loss is not finite, or the run directory cannot be written.
    """
    run = None
    weights = None if conditions.folder is None else conditions.folder / WEIGHTS
    if conditions.folder is not None:
        given = {"threat": knowledge.threat, "given": knowledge.fingerprint(own)}
        identity = {"attack": attack.name, "seed": conditions.seed, **given, **asdict(attack)}
        run = RunDirectory(conditions.folder, identity, conditions.device)
    if run is not None and run.results is not None and weights is not None and weights.is_file():
        saved = load_file(weights)
        for name, network in networks.items():
            its = {key.removeprefix(f"{name}/"): value for key, value in saved.items() if key.startswith(f"{name}/")}
            network.load_state_dict(its)
            network.eval()
        return float(run.results["seconds"])

    def state() -> dict[str, Any]:
        return {
            "networks": {name: network.state_dict() for name, network in networks.items()},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }

    def restore(content: dict[str, Any]) -> None:
        for name, network in networks.items():
            network.load_state_dict(content["networks"][name])
        for optimizer, own in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(own)

    device = conditions.device
    if device.world > 1:
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda own, *_: average_gradients(device, iter(learned_by(own))))
    for network in networks.values():
        network.train()
    seconds = run_steps(
        title=attack.name,
        total=steps,
        batch=batch,
        step_fn=step_fn,
        state=state,
        restore=restore,
        run=run,
        device=device,
        stop_after=stop_after,
    )
    for network in networks.values():
        average_buffers(device, network)
        network.eval()
    if run is not None and weights is not None and stop_after is None:
        tensors = {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }
        if device.rank == 0:
            write_tensors(weights, tensors)
        run.finish({"seconds": seconds})
    return seconds


def seeded(
    conditions: Conditions, *makers: Callable[[], nn.Module], start: Callable[[nn.Module], None] | None = None
) -> list[nn.Module]:
    """Make networks whose first weights only the seed decides, on the device.

    Args:
        conditions: seed and device.
        makers: one for each network.
        start: applied to every layer, to draw other first weights than the layers' own.
    """
    networks = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(conditions.seed)
        for make in makers:
            network = make()
            networks.append(conditions.device.place(network if start is None else network.apply(start)))
    return networks


def learned_by(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that an optimizer steps."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def trained_seconds(folder: Path | None) -> float:
    """Seconds of training in a run directory of `learn`, over all calls; 0 where nothing is finished there."""
    if folder is None or not (folder / WEIGHTS).is_file():
        return 0.0
    return float(json.loads((folder / "results.json").read_text())["seconds"])


def batch_for(batch: int, images: Tensor) -> int:
    """How many images (N, C, H, W) to take a step: as many pixels as `batch` images of 32x32 have, at least 8 images.

    A budget of steps then costs about the same for images of any size.
    """
    pixels = images.shape[-2] * images.shape[-1]
    return min(batch, max(LEAST_BATCH, batch * BATCH_PIXELS // pixels))


def parts_of(images: Tensor) -> tuple[Tensor, ...]:
    """Images (N, C, H, W) in parts that a network takes at once, of as many pixels as 250 images of 32x32 have."""
    return torch.split(images, batch_for(BATCH_AT_ONCE, images))


@torch.no_grad()
def to_images(network: Callable[[Tensor], Tensor], images: Tensor, conditions: Conditions) -> Tensor:
    """Send uint8 images (N, 3, H, W) through a network from and to floats in [0, 1]; uint8 out."""
    out = []
    for part in parts_of(images):
        with conditions.device.autocast():
            floats = network(conditions.device.batch(part)).float()
        out.append((floats.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
    return torch.cat(out)
