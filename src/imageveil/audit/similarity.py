"""What a viewer sees: the measures of an audit, with no attack, on the protected images themselves."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imageveil.audit.floors import floors
from imageveil.audit.leakage import measure
from imageveil.audit.reidentification import MATCHERS
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, load_arrays
from imageveil.images.sources import MissingSplitError
from imageveil.records import check_writable, device_kind, record, write_json
from imageveil.schemes import Scheme, load_scheme

BATCH_PIXELS = 500 * 32 * 32
FLOOR_KINDS = ("blind", "label_only")
REMOVED = "_mean_removed"
"""Ending of the figures of a viewer who subtracts the mean protected image."""


def protect_all(scheme: Scheme, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
    """Protect many images batch by batch.

    Args:
        scheme: how.
        images: uint8 (N, 3, H, W).
        ids: one identity an image, for schemes that need them.

    Returns:
        uint8 (N, 3, H, W): what block schemes pad below and to the right is cut off, so that pixels correspond.
    """
    size = max(1, BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))
    parts = torch.split(torch.arange(len(images)), size)
    done = [
        scheme.protect(images[part], ids=None if ids is None else [ids[int(i)] for i in part])[
            ..., : images.shape[-2], : images.shape[-1]
        ]
        for part in parts
    ]
    return torch.cat(done)


def computed_on(scheme: Scheme) -> str:
    """The machine kind for records of images that a scheme protected: where its network lies, always in float32."""
    network = getattr(scheme, "network", None)
    cuda = isinstance(network, nn.Module) and any(weight.is_cuda for weight in network.parameters())
    return device_kind(cuda=cuda, bf16=False)


def without_mean(protected: Tensor) -> Tensor:
    """Subtract the mean protected image and stretch what is left about mid-grey.

    A texture that all protected images share hides what is different in them from the eye and from the matchers; anyone
    with many protected images can take it away.

    Args:
        protected: uint8 (N, C, H, W).

    Returns:
        uint8 (N, C, H, W), of standard deviation 40 before clipping.
    """
    left = protected.float() - protected.float().mean(dim=0, keepdim=True)
    return (left * (40 / left.std().clamp(min=1e-6)) + 128).round().clamp(0, 255).to(torch.uint8)


def similarity(
    scheme: Scheme,
    data: ImageArrays,
    *,
    reference: ImageArrays | None = None,
    floor: dict[str, dict[str, float]] | None = None,
    seed: int = 0,
    perceptual: bool = True,
) -> dict[str, Any]:
    """Measure how much of the plain images is left in the protected ones.

    Args:
        scheme: the scheme that is judged.
        data: plain images, with labels where re-identification within the class is wanted.
        reference: other plain images of the same kind for the floors' means; None takes them from `data`.
        floor: the floors of `data`, if they are known already; None measures them.
        seed: decides candidate sets, resampling and the floors' other images.
        perceptual: measure the perceptual distance too.

    Returns:
        A record of the task `similarity`; besides the common names, `metrics` holds figures per matcher, and with the
        ending `_mean_removed` those of a viewer who has many protected images and subtracts their mean.
    """
    begun = time.monotonic()
    protected = protect_all(scheme, data.images, data.keys)
    leakage = measure(data.images, protected, data.labels, seed=seed, perceptual=perceptual)
    residual = measure(data.images, without_mean(protected), data.labels, seed=seed)
    names = ("ssim", "reid_top1", "reid_within")
    left = {f"{name}{REMOVED}": name for name in names if name in residual.metrics}
    known = None if reference is None else (reference.images, reference.labels)
    return record(
        task="similarity",
        scheme=scheme.label,
        data=data.name,
        seed=seed,
        n=len(data),
        metrics=leakage.metrics | {key: residual.metrics[name] for key, name in left.items()},
        floors=floors(data.images, data.labels, reference=known, seed=seed) if floor is None else floor,
        intervals=leakage.intervals | {key: residual.intervals[name] for key, name in left.items()},
        device=computed_on(scheme),
        seconds=round(time.monotonic() - begun, 1),
    )


def mean_removed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the viewer who subtracts the mean protected image, from that of the one who looks as it is.

    Args:
        found: a record of the task `similarity`.

    Returns:
        The same record with that viewer's figures and intervals under their common names, and no others.
    """
    metrics, intervals = (
        {name.removesuffix(REMOVED): value for name, value in (found[kind] or {}).items() if name.endswith(REMOVED)}
        for kind in ("metrics", "intervals")
    )
    candidates = {name: value for name, value in found["metrics"].items() if name.endswith("_candidates")}
    return {**found, "metrics": metrics | candidates, "intervals": intervals}


def run_similarity(scheme: str, data: str, *, split: str = "test", out: Path | None = None, seed: int = 0) -> str:
    """Measure a scheme by name or file on images by name or path; write the record if `out` is given.

    Returns:
        The figures as lines of text.

    Raises:
        UsageError: scheme or images are missing, or the images are fewer than two.
        RunError: a file cannot be written.
    """
    opened = load_scheme(scheme)
    check_writable(out)
    images = load_arrays(data, split)
    reference = None
    if split != "train":
        try:
            reference = load_arrays(data, "train")
        except MissingSplitError:
            print(f"note: {data} has no training images; the floors are made from the judged ones", file=sys.stderr)
    if reference is not None and reference.images.shape[1:] != images.images.shape[1:]:
        raise UsageError(f"{data} holds training images of another size than those of {split}; give one size")
    found = similarity(opened, images, reference=reference, seed=seed)
    if out is not None:
        write_json(out, found)
    return describe(found)


def describe(found: dict[str, Any]) -> str:
    """A similarity record in words: each figure with its interval, its floors and, for re-identification, chance."""
    metrics, intervals, floor = found["metrics"], found["intervals"], found["floors"]
    lines = [
        f"{found['scheme']} on {found['data']}, {found['n']} images",
        f"{'':12} {'measured':>9} {'95 % interval':>18} {'blind':>8} {'label-only':>11}",
    ]
    for name in ("ssim", "psnr", "mse_var", "reid_top1", "reid_within"):
        if name in metrics:
            low, high = intervals[name]
            cells = [f"{floor[kind][name]:.3f}" if name in floor.get(kind, {}) else "" for kind in FLOOR_KINDS]
            shown = f"{low:.3f} to {high:.3f}"
            lines.append(f"{name:12} {metrics[name]:9.3f} {shown:>18} {cells[0]:>8} {cells[1]:>11}")
    lines += [
        f"{name}: best by {best_matcher(metrics, name)}, among {metrics[f'{name}_candidates']:.0f} candidates, "
        f"chance {floor['chance'][name]:.3f}"
        for name in ("reid_top1", "reid_within")
        if name in metrics
    ]
    lines += [
        f"{name} once the mean protected image is subtracted: {metrics[f'{name}{REMOVED}']:.3f}"
        for name in ("reid_top1", "reid_within")
        if f"{name}{REMOVED}" in metrics
    ]
    return "\n".join(lines)


def best_matcher(metrics: dict[str, float], name: str) -> str:
    """Which matcher gave `reid_top1` or `reid_within` in a record's metrics."""
    return max(MATCHERS, key=lambda matcher: metrics[f"{name}_{matcher}"]).replace("_", " ")
