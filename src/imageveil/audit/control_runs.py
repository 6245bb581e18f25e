"""What some controls need beside a scheme: the cloud's classifier, and the run directory of a learned scheme."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from imageveil.attacks.knowledge import Knowledge
from imageveil.attacks.leaked_inverse import logged_error
from imageveil.images.arrays import ImageArrays
from imageveil.presets import TransformationConfig
from imageveil.presets.classifier import classifier_quick, classifier_smoke
from imageveil.schemes.base import Scheme, load_scheme
from imageveil.training.classifier import train_classifier
from imageveil.training.device import Device
from imageveil.training.pipeline import train_scheme

CLASSIFIER_EPOCHS = 4

SHORT_RUN = TransformationConfig(
    steps=200, batch=32, widths=(8, 16, 32), backward_widths=(8, 16, 32), lr=2e-3, gamma3=1.0
)
"""A transformation network and its inverse that learn in seconds and hide nothing: enough to be stolen."""


def cloud_classifier(known: Knowledge, classes: list[str], *, preset: str, device: Device, seed: int) -> nn.Module:
    """Train a classifier on protected images and labels, as the cloud does, for a few epochs.

    Args:
        known: any attacker's knowledge; only its protected images and labels are used.
        classes: names of the classes by label.
        preset: `smoke` trains a narrow network for tests.
        device: where to train.
        seed: decides every random choice.
    """
    keys = [str(number) for number in range(len(known.protected))]
    data = ImageArrays(name="protected images", images=known.protected, labels=known.labels, classes=classes, keys=keys)
    config = classifier_smoke() if preset == "smoke" else replace(classifier_quick(), epochs=CLASSIFIER_EPOCHS)
    return train_classifier(data, config, seed=seed, device=device)[0].requires_grad_(False)


def short_run(train: ImageArrays, folder: Path, *, device: Device, seed: int) -> tuple[Scheme, float]:
    """Train a small transformation network together with its inverse.

    Returns:
        The scheme, and the reconstruction error over variance that the log of its training ends with.
    """
    path = train_scheme(
        train,
        folder,
        preset="control",
        config=SHORT_RUN,
        classifier_config=classifier_smoke(),
        seed=seed,
        device=device,
        name="learned",
    )
    logged = logged_error(folder / "transformation")
    assert logged is not None
    return load_scheme(path), logged
