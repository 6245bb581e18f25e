"""How well a cloud learns from protected images: train a classifier on a data set under a scheme, judge it once."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imageveil.audit.intervals import wilson
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, deal_out
from imageveil.networks.adaptation import Adaptation, build_adaptation
from imageveil.presets import ClassifierConfig, as_json
from imageveil.records import commit, record
from imageveil.schemes import Scheme
from imageveil.schemes.base import digest
from imageveil.schemes.keyed import KeyedScheme
from imageveil.training.classifier import (
    Protect,
    Protection,
    accuracy,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from imageveil.training.device import Device
from imageveil.training.identity import images_digest
from imageveil.training.run_directory import RunDirectory


def as_protect(scheme: Scheme, device: Device) -> Protect:
    """A scheme's `protect` on the device and in the precision of a run."""
    scheme.to(device.torch)

    def protect(images: Tensor, keys: list[str], generator: torch.Generator | None) -> Tensor:
        with device.autocast():
            return scheme.protect(images, ids=keys, generator=generator)

    return protect


def published_adaptation(scheme: Scheme | None, size: int, *, seed: int) -> Adaptation:
    """The adaptation network that was published with a scheme, for its blocks.

    Args:
        scheme: the scheme; None for plain images.
        size: pixels on the side of the plain images, which a scheme with blocks pads to whole ones.
        seed: decides the initial weights.

    Raises:
        UsageError: none was published.
    """
    front = None
    if isinstance(scheme, KeyedScheme):
        padded = -(-size // scheme.block) * scheme.block
        front = build_adaptation(scheme.name, block=scheme.block, size=padded, seed=seed)
    if front is None:
        label = "none" if scheme is None else scheme.label
        raise UsageError(f"no adaptation network was published with {label}; leave --adaptation out")
    return front


def classify(
    train: ImageArrays,
    test: ImageArrays,
    *,
    config: ClassifierConfig,
    preset: str,
    scheme: Scheme | None,
    augment: str,
    adaptation: bool = False,
    held_back: int = 0,
    seed: int,
    device: Device,
    run_path: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and judge a classifier.

    Args:
        train: labelled training images, plain; or already protected ones without a scheme.
        test: images the finished classifier is judged on, once.
        config: the recipe.
        preset: its name.
        scheme: protects training and test images; None for plain ones.
        augment: `live` (augment, then protect, every epoch anew) or `once` (protect once, then augment).
        adaptation: put the network that was published with the scheme in front of the classifier.
        held_back: leave so many training images out, dealt by `seed`, and judge on them instead of on `test`: for
            choosing between recipes, so that test images are looked at once. The record's data are then called
            `<name>-held-back`.
        seed: decides every random choice.
        device: where to train.
        run_path: run directory; the same call continues where it was stopped.
        say: takes one line when done.

    Returns:
        A record of task `classify`.

    Raises:
        UsageError: no labels, other classes in the test images, an unknown way of augmenting, or fewer than two
            images on one side of those held back.
    """
    if augment not in ("live", "once"):
        raise UsageError(f"unknown --augment {augment!r}; use live or once")
    commit()
    if held_back:
        train, test = deal_out(replace(train, name=f"{train.name}-held-back"), seed, held_back)
    labels = test.require_labels()
    if train.classes != test.classes:
        raise UsageError(f"training and test images of {train.name} have different classes")
    label = "none" if scheme is None else scheme.label
    protect = as_protect(scheme, device) if scheme is not None else None
    front = published_adaptation(scheme, train.images.shape[-1], seed=seed) if adaptation else None
    run = None
    if run_path is not None:
        identity = {"data": train.name, "scheme": label, "augment": augment, "adaptation": adaptation}
        identity |= {"seed": seed, "n": len(train), "images_sha256": images_digest(train)}
        if scheme is not None:
            # Another key of the same scheme, or another network of the same name, protects differently.
            identity["scheme_sha256"] = digest(scheme.state()[0])
        run = RunDirectory(run_path, identity | as_json(config), device)

    def train_here() -> tuple[nn.Module, dict[str, float]]:
        return train_classifier(
            train,
            config,
            seed=seed,
            device=device,
            run=run,
            protection=Protection(protect=protect, live=augment == "live") if protect is not None else None,
            adaptation=front,
        )

    if run is None:
        network, timing = train_here()
    else:
        weights = run.path / "classifier.safetensors"
        if run.results is not None and weights.is_file():
            timing = run.results
        else:
            network, timing = train_here()
            if device.rank == 0:
                save_classifier(weights, network, config, train.classes)
            device.wait()
        # Read back in either case: on disk the weights are rounded, and a repeated call must judge the same.
        network = device.place(load_classifier(weights)[0])
    begun = time.monotonic()
    right = accuracy(predict(network, test, device=device, protect=protect), labels)
    kind = device.kind
    if run is not None:
        # A repeated call may be on another device than the training was.
        kind = (run.results or {}).get("device", run.kind)
        run.finish({**timing, "device": kind, "accuracy": right, "predict_seconds": time.monotonic() - begun})
    low, high = wilson(round(right * len(test)), len(test))
    share = timing["protect_seconds"] / timing["seconds"] if scheme is not None else 0.0
    if device.rank == 0:
        say(f"{label} on {train.name}: accuracy {right:.4f} [{low:.4f}, {high:.4f}], n {len(test)}")
    return record(
        task="classify",
        scheme=label,
        data=train.name,
        network=config.network,
        adaptation=adaptation,
        augment=augment,
        preset=preset,
        seed=seed,
        n=len(test),
        metrics={"accuracy": right, "share_of_time_protecting": share},
        intervals={"accuracy": [low, high]},
        device=kind,
        seconds=round(timing["seconds"], 1),
    )
