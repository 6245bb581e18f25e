"""What some controls need beside a scheme: the run directory of a learned one."""

from pathlib import Path

from imageveil.attacks.leaked_inverse import logged_error
from imageveil.images.arrays import ImageArrays
from imageveil.presets import TransformationConfig
from imageveil.presets.classifier import classifier_smoke
from imageveil.schemes.base import Scheme, load_scheme
from imageveil.training.device import Device
from imageveil.training.pipeline import train_scheme

SHORT_RUN = TransformationConfig(
    steps=200, batch=32, widths=(8, 16, 32), backward_widths=(8, 16, 32), lr=2e-3, gamma3=1.0
)
"""A transformation network and its inverse that learn in seconds and hide nothing: enough to be stolen."""


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
