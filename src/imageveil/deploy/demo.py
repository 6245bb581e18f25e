"""The demo: protect photographs, train the same classifier on plain and on protected ones, and show both on a page."""

import json
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imageveil.audit.intervals import wilson
from imageveil.audit.report import write_page
from imageveil.audit.similarity import protect_all, similarity
from imageveil.deploy.demo_page import Photograph, Trained, demo_page
from imageveil.errors import RunError
from imageveil.images.arrays import ImageArrays, train_and_test
from imageveil.presets import CLASSIFIER_PRESETS, ClassifierConfig, as_json, choose
from imageveil.records import write_json
from imageveil.schemes import Scheme, load_scheme
from imageveil.schemes.base import digest
from imageveil.training.classifier import Protection, accuracy, predict, train_classifier
from imageveil.training.device import Device, open_device
from imageveil.training.identity import images_digest
from imageveil.training.run_directory import RunDirectory

# Photographs whose files lie inside scikit-image's wheel; its other images would be downloaded.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera")
# The embedded set has 512 training and 160 test images of 96x96; a larger set is cut down to about as many pixels.
TRAIN_PIXELS = 600 * 96 * 96
TEST_PIXELS = 200 * 96 * 96


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """What the classifiers learn from and are tested on; `left_out` counts images beyond what a demo has time for."""

    train: ImageArrays
    test: ImageArrays
    left_out: int


def run_demo(
    out: Path,
    *,
    scheme: str = "gan-cifar10",
    data: str | None = None,
    preset: str = "demo",
    seed: int = 0,
    device: Device | None = None,
) -> Path:
    """Run the demo; called again on the same folder it takes up what is done.

    Args:
        out: folder for the page and the two training runs.
        scheme: shipped name or scheme file.
        data: labelled images; None takes the photographs inside the package.
        preset: recipe of the classifier.
        seed: decides every random choice.
        device: where to train; None chooses.

    Returns:
        The page, `out/index.html`.

    Raises:
        UsageError: scheme, images, labels or preset are missing, or `out` holds a demo with other settings.
        RunError: something could not be written.
    """
    begun = time.monotonic()
    device = device or open_device()
    opened = load_scheme(scheme)
    config = choose(CLASSIFIER_PRESETS, preset)
    sets = demo_data(data, seed)
    sets.train.require_labels()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {out}: {error.strerror}") from error
    _say("protecting photographs")
    photographs = protect_photographs(opened)
    _say(f"measuring what {len(sets.test)} protected images show")
    found = similarity(opened, sets.test, reference=sets.train, seed=seed, perceptual=False)
    write_json(out / "similarity.json", found)
    trained = [
        train_side(name, out / name, sets, config, opened if name == "protected" else None, seed=seed, device=device)
        for name in ("plain", "protected")
    ]
    page = demo_page(
        label=opened.label,
        public=opened.public,
        train=sets.train,
        test=sets.test,
        left_out=sets.left_out,
        protected=protect_all(opened, sets.test.images, sets.test.keys),
        photographs=photographs,
        similarity=found,
        trained=trained,
    )
    path = out / "index.html"
    write_page(page, path)
    _say(f"done in {(time.monotonic() - begun) / 60:.1f} min")
    return path


def demo_data(spec: str | None, seed: int) -> DemoData:
    """The embedded photographs, or a user's images, cut to what a demo has time for.

    Images that come without a split into training and test images are split here, four to one.

    Raises:
        UsageError: nothing is there, or images differ in size.
    """
    spec = spec or str(resources.files("imageveil") / "assets" / "photos")
    train, test = train_and_test(spec, seed)
    total = len(train) + len(test)
    generator = torch.Generator().manual_seed(seed)
    train, test = _cut(train, TRAIN_PIXELS, generator), _cut(test, TEST_PIXELS, generator)
    return DemoData(train=train, test=test, left_out=total - len(train) - len(test))


def _cut(data: ImageArrays, pixels: int, generator: torch.Generator) -> ImageArrays:
    most = max(2, pixels // (data.images.shape[-1] * data.images.shape[-2]))
    if len(data) <= most:
        return data
    return data.subset(torch.randperm(len(data), generator=generator)[:most].sort().values)


def protect_photographs(scheme: Scheme) -> list[Photograph]:
    """scikit-image's photographs at their own size, plain and protected."""
    from skimage import data

    pairs = []
    for name in PHOTOGRAPHS:
        pixels = np.asarray(getattr(data, name)())
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        plain: Tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        protected = protect_all(scheme, plain[None], [f"skimage/{name}"])[0]
        pairs.append(Photograph(name=name, plain=plain, protected=protected))
    return pairs


def train_side(
    name: str,
    path: Path,
    sets: DemoData,
    config: ClassifierConfig,
    scheme: Scheme | None,
    *,
    seed: int,
    device: Device,
) -> Trained:
    """Train and test the classifier on plain images, or on images that a scheme protects after augmentation.

    Args:
        name: `plain` or `protected`.
        path: run directory; a finished run there is taken as it is.
        sets: training and test images.
        config: the recipe, the same for both sides.
        scheme: None for plain images.
        seed: decides initial weights, order and augmentation.
        device: where to train.
    """
    settings: dict[str, Any] = {
        "side": name,
        "data": sets.train.name,
        "images": [len(sets.train), len(sets.test)],
        "images_sha256": [images_digest(sets.train), images_digest(sets.test)],
        "classifier": as_json(config),
        "seed": seed,
    }
    if scheme is not None:
        settings["scheme"] = [scheme.label, digest(scheme.state()[0])]
    run = RunDirectory(path, settings, device)
    results = run.results
    if results is None:
        _say(f"training on {len(sets.train)} {name} images")

        def protect(images: Tensor, keys: list[str], generator: torch.Generator | None) -> Tensor:
            assert scheme is not None
            return scheme.protect(images, ids=keys, generator=generator)

        network, spent = train_classifier(
            sets.train,
            config,
            seed=seed,
            device=device,
            run=run,
            protection=None if scheme is None else Protection(protect=protect),
        )
        predictions = predict(network, sets.test, device=device, protect=None if scheme is None else protect)
        results = {"accuracy": accuracy(predictions, sets.test.require_labels()), **spent}
        run.finish(results)
    count = len(sets.test)
    return Trained(
        name=name,
        accuracy=results["accuracy"],
        interval=wilson(results["accuracy"] * count, count),
        seconds=results["seconds"],
        protect_seconds=results["protect_seconds"],
        log=read_log(path),
    )


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl by rising step; of steps that were done twice, the later line."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
