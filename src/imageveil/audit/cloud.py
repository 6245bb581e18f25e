"""What the threat `recipe` adds: the classifier that the cloud trained, and what is public about a scheme's making."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imageveil.attacks.knowledge import Knowledge, fingerprint
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.presets import CLASSIFIER_PRESETS, as_json, choose
from imageveil.schemes import Scheme
from imageveil.schemes.base import shipped_schemes
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.classifier import load_classifier, save_classifier, train_classifier
from imageveil.training.device import Device, has_fast_bf16
from imageveil.training.run_directory import RunDirectory

WEIGHTS = "classifier.safetensors"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Where the cloud's classifier comes from.

    Attributes:
        classifier: a file that `imageveil classify --run` wrote; None trains one on the protected images.
        folder: run directory of that training, to be continued by the same call; None keeps nothing.
        preset: recipe of that training.
        epochs: passes over the images, if not the recipe's.
        device: where it trains and is used.
        seed: decides every random choice.
    """

    classifier: Path | None = None
    folder: Path | None = None
    preset: str = "quick"
    epochs: int | None = None
    device: Device = field(default_factory=lambda: Device(torch=torch.device("cpu"), bf16=has_fast_bf16()))
    seed: int = 0

    def open(self, known: Knowledge, classes: list[str]) -> nn.Module:
        """Read the classifier or train it on what the cloud has: protected images and labels.

        Args:
            known: any attacker's knowledge; only its protected images and labels are used.
            classes: names of the classes by label.

        Returns:
            The network in eval mode on the device, its weights fixed, from protected floats in [0, 1] to logits.

        Raises:
            UsageError: the file is no classifier or has other classes, or there are no labels to train with.
        """
        if self.classifier is not None:
            network, own = load_classifier(self.classifier)
            if own != classes:
                raise UsageError(f"{self.classifier} was trained on other classes than those of the data")
        else:
            network = self._trained(known, classes)
        return self.device.place(network).eval().requires_grad_(False)

    def _trained(self, known: Knowledge, classes: list[str]) -> nn.Module:
        if known.labels is None:
            raise UsageError("the threat 'recipe' needs labels: the cloud trained a classifier on them")
        config = choose(CLASSIFIER_PRESETS, self.preset)
        if self.epochs is not None:
            config = replace(config, epochs=self.epochs)
        keys = [str(number) for number in range(len(known.protected))]
        data = ImageArrays(
            name="protected images", images=known.protected, labels=known.labels, classes=classes, keys=keys
        )
        if self.folder is None:
            return train_classifier(data, config, seed=self.seed, device=self.device)[0]
        given = fingerprint({"protected": known.protected, "labels": known.labels}, *classes)
        identity = {"scheme": known.scheme.name, "given": given, "seed": self.seed} | as_json(config)
        run, weights = RunDirectory(self.folder, identity, self.device), self.folder / WEIGHTS
        if run.results is None or not weights.is_file():
            network, timing = train_classifier(data, config, seed=self.seed, device=self.device, run=run)
            save_classifier(weights, network, config, classes)
            run.finish(timing)
        # Read back in either case: on disk the weights are rounded, and a resumed run must see the same.
        return load_classifier(weights)[0]


def public_recipe(scheme: Scheme) -> dict[str, Any]:
    """What an attacker knows of how a scheme was made: never weights or key.

    Returns:
        `architecture` (fields of `UNetConfig`), `preset` and `data` (kind of images) of the training, and `init`, the
        public weights it continued from; each None where there is none. A scheme that one of the owner's own files was
        continued from is not public and is left out. A scheme that was not learned adds its name as `scheme`, and
        `block`, pixels on a block's side.
    """
    if not isinstance(scheme, LearnedScheme):
        found: dict[str, Any] = dict.fromkeys(("architecture", "preset", "data", "init"))
        return found | {"scheme": scheme.name, "block": getattr(scheme, "block", None)}
    made = scheme.training
    return {
        "architecture": asdict(scheme.network.config),
        "preset": made.get("preset"),
        "data": made.get("data"),
        "init": made.get("init") if made.get("init") in shipped_schemes() else None,
    }
