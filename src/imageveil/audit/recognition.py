"""Recognition: how often a classifier of plain images names what a reconstruction shows.

It is asked for labels other than those that a scheme was taught to keep, since an attack that is told the class may
print the class.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from imageveil.audit.floors import BLIND, LABEL_ONLY, guesses
from imageveil.audit.intervals import wilson
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.schemes import Scheme
from imageveil.training.classifier import load_classifier
from imageveil.training.device import Device

BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Recogniser:
    """A classifier of plain images of the judged kind.

    Attributes:
        network: floats in [0, 1] to logits, in eval mode.
        classes: names of the classes by label.
        device: where it is computed.
    """

    network: nn.Module
    classes: list[str]
    device: Device

    @classmethod
    def open(cls, path: Path, judged: ImageArrays, scheme: Scheme, device: Device) -> Self:
        """Read a file that `imageveil classify --run` wrote for plain images.

        Raises:
            UsageError: it is no classifier, has other classes than the judged images, or names the very labels that
                the scheme was taught to keep.
        """
        network, classes = load_classifier(path)
        judged.require_labels()
        if classes != judged.classes:
            raise UsageError(f"--recogniser {path} was trained on other classes than those of {judged.name}")
        if getattr(scheme, "training", {}).get("data") == judged.name:
            raise UsageError(
                f"recognition says nothing about labels that {scheme.label} was itself taught with; leave --recogniser "
                f"out, or judge on other images than {judged.name}"
            )
        return cls(network=device.place(network).eval(), classes=classes, device=device)

    @torch.no_grad()
    def hits(self, images: Tensor, labels: Tensor) -> int:
        """How many of uint8 images (N, 3, H, W) are named by their labels (N,)."""
        found = 0
        for part, wanted in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            with self.device.autocast():
                found += int((self.network(self.device.batch(part)).argmax(1).cpu() == wanted).sum())
        return found

    def measure(self, shown: Tensor, labels: Tensor) -> tuple[float, list[float]]:
        """The rate on shown images, and its 95 % interval."""
        hits = self.hits(shown, labels)
        return hits / len(shown), list(wilson(hits, len(shown)))

    def floors(
        self, plain: Tensor, labels: Tensor, *, reference: tuple[Tensor, Tensor | None] | None = None, seed: int = 0
    ) -> dict[str, float]:
        """What guessing reaches, by kind as in `floors.floors`, and the rate on plain images as `ceiling`."""
        shown = guesses(plain, labels, reference=reference, seed=seed)
        rates = {name: self.hits(images, labels) / len(plain) for name, images in shown.items()}
        found = {"blind": max(rates[name] for name in BLIND), "chance": 1 / len(self.classes)}
        if all(name in rates for name in LABEL_ONLY):
            found["label_only"] = max(rates[name] for name in LABEL_ONLY)
        return found | {"ceiling": self.hits(plain, labels) / len(plain)}
