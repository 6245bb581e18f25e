"""How far the engines' images are from each other, and whether a classifier notices.

    python benchmarks/engines.py --data data/cifar10 [--classifier RUN/classifier.safetensors] [--images 10000]
    python benchmarks/engines.py --table

Test images are protected by PyTorch in float32, which is what classifiers are trained on, and by every other engine and
precision that is installed; those of PyTorch in float32 also go through JPEG, as `--format jpeg` writes it. One record
each in `results/engines/`: `mean_difference` and `largest_difference` in levels of 255, and `bytes` an image of the
written files; with a classifier (`imageveil classify --scheme SCHEME` writes one) also its `accuracy` on those images
and `same_prediction`, the share of images that it takes for the same class. `--table` prints what is written there.
"""

import argparse
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imageveil.deploy.engines import open_engine
from imageveil.deploy.tiles import Protector
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, load_arrays
from imageveil.images.sinks import encode
from imageveil.records import made_on, read_records, record, write_json
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.classifier import accuracy, load_classifier, predict
from imageveil.training.device import open_device

REFERENCE = ("torch", "float32")
OTHERS = (("torch", "bf16"), ("onnx", "float32"), ("openvino", "float32"), ("openvino", "bf16"))
QUALITIES = (95, 85)


def protected_by(scheme: LearnedScheme, engine: str, precision: str, images: Tensor) -> tuple[str, Tensor]:
    """The engine's full name, and the images protected by it."""
    protector = Protector(scheme, open_engine(scheme.network, engine, device="cpu", precision=precision))
    out = protector(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), [""] * len(images))
    return protector.name, torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def written(images: Tensor, kind: str, quality: int = 95) -> list[bytes]:
    return [encode(image, kind, quality=quality) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def read(blobs: list[bytes]) -> Tensor:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(blob))) for blob in blobs])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def variants(scheme: LearnedScheme, images: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """Name, protected images and bytes of their files, the reference first."""
    name, reference = protected_by(scheme, *REFERENCE, images)
    yield name, reference, sum(map(len, written(reference, "png")))
    for engine, precision in OTHERS:
        try:
            name, protected = protected_by(scheme, engine, precision, images)
        except UsageError as error:
            print(f"left out: {error}")
            continue
        yield name, protected, sum(map(len, written(protected, "png")))
    for quality in QUALITIES:
        blobs = written(reference, "jpeg", quality)
        yield f"jpeg-{quality}", read(blobs), sum(map(len, blobs))


def judge(network: nn.Module, data: ImageArrays) -> Callable[[Tensor], Tensor]:
    """A function from protected images to predicted classes."""
    device = open_device("cpu", precision="float32")
    network = device.place(network)
    return lambda images: predict(network, replace(data, images=images), device=device)


def table(results: Path) -> str:
    """The records as a Markdown table."""
    lines = [
        "| images written by | mean difference | largest | bytes an image | accuracy | same prediction |",
        "|---|---|---|---|---|---|",
    ]
    found = read_records(results)
    for each in sorted(found, key=lambda e: (e["scheme"], e["metrics"]["mean_difference"])):
        m = each["metrics"]
        cells = [each["preset"], f"{m['mean_difference']:.3f}", f"{m['largest_difference']:.0f}", f"{m['bytes']:,.0f}"]
        cells += [f"{m[name]:.2%}" if name in m else "" for name in ("accuracy", "same_prediction")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", made_on(found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scheme", default="gan-cifar10")
    parser.add_argument("--data", default="cifar10", help="folder, Parquet or name; its test images are taken")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classifier", type=Path, help="classifier.safetensors of a run on images of this scheme")
    parser.add_argument("--results", type=Path, default=Path("results/engines"))
    parser.add_argument("--table", action="store_true", help="print the records that are there")
    options = parser.parse_args()
    if options.table:
        print(table(options.results))
        return
    warnings.simplefilter("ignore")
    scheme = load_scheme(options.scheme)
    if not isinstance(scheme, LearnedScheme):
        raise UsageError(f"{options.scheme} is not a network: no engine runs it")
    data = load_arrays(options.data, "test")
    data = data.subset(torch.arange(min(options.images, len(data))))
    predicted = judge(load_classifier(options.classifier)[0], data) if options.classifier else None
    reference, expected = None, None
    begun = time.perf_counter()
    for name, protected, size in variants(scheme, data.images):
        if reference is None:
            reference = protected
        difference = (protected.int() - reference.int()).abs()
        metrics = {
            "mean_difference": float(difference.float().mean()),
            "largest_difference": float(difference.max()),
            "bytes": size / len(protected),
        }
        if predicted is not None:
            classes = predicted(protected)
            expected = classes if expected is None else expected
            metrics["accuracy"] = accuracy(classes, data.require_labels())
            metrics["same_prediction"] = accuracy(classes, expected)
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        write_json(
            options.results / f"{scheme.label}-{name}.json",
            record(
                task="throughput",
                scheme=scheme.label,
                data=data.name,
                preset=name,
                n=len(data),
                metrics=metrics,
                seconds=seconds,
            ),
        )
        print(name, ", ".join(f"{key} {value:.5g}" for key, value in metrics.items()), flush=True)


if __name__ == "__main__":
    main()
