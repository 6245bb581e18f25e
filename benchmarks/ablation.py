"""What each term of the objective does, one short run a variant of `quick`, and the table of them.

    python benchmarks/ablation.py --data data/cifar10 --classifier runs/theta/classifier.safetensors
    python benchmarks/ablation.py --table

All variants start from one encoder and take the same steps. Each is measured on test images after 8-bit rounding: what
a viewer sees, what the inverse that learned along leaves of the variance, and the accuracy of a fresh classifier with a
few epochs. A variant whose record is there is skipped, so the same command goes on where it was stopped.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from imageveil.audit.accuracy import classify
from imageveil.audit.similarity import similarity
from imageveil.images.arrays import load_arrays
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS
from imageveil.records import made_on, read_records, write_json
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.device import Device, open_device
from imageveil.training.pipeline import train_scheme

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "quick": ("all terms of `quick`", {}),
    "no-viewer": ("without the viewer", {"viewer": 0.0}),
    "no-inverse": ("without (9)", {"gamma3": 1e-3}),
    "no-joint": ("without the classifier that learns along", {"joint": 0.0}),
    "no-distil": ("without a plain classifier's features", {"distil": 0.0}),
    "no-contrast": ("output not normalised in contrast", {"head": "sigmoid"}),
    "with-4": ("with (4) towards P, lambda = 0.4", {"lambda_": 0.4}),
    "with-8": ("with (8) through h_theta, gamma2 = 0.4", {"gamma2": 0.4}),
    "6-for-viewer": (
        "(6) up to L_feat = 3, gamma1 = -0.25, for the viewer",
        {"viewer": 0.0, "gamma1": -0.25, "margin": 3.0},
    ),
}
"""For each variant what it is, and the values that differ from `quick`. Where (9) is left out, G_BA goes on learning by
Adam, whose steps do not depend on the weight, and G_AB hardly feels it."""

SHARED = ("encoder", "preliminary")


def prefix(name: str) -> str:
    """What records call a variant."""
    return f"ablation-{name}"


def run(name: str, options: argparse.Namespace, device: Device) -> None:
    """Train and measure one variant, unless its record is there."""
    path = options.out / f"{name}.json"
    if path.is_file():
        return
    train, test = load_arrays(options.data, "train"), load_arrays(options.data, "test")
    short = CLASSIFIER_PRESETS[options.classifiers]()
    config = replace(
        TRANSFORMATION_PRESETS["quick"](), steps=options.steps, warm_epochs=options.warm_epochs, **VARIANTS[name][1]
    )
    folder = options.runs / name
    for step in SHARED:
        # What comes before the transformation is the same for all.
        made = [one for one in sorted(options.runs.glob(f"*/{step}")) if (one / "results.json").is_file()]
        if made and not (folder / step).exists():
            shutil.copytree(made[0], folder / step)
    needs_classifier = bool(config.gamma2 or config.lambda_)
    scheme = load_scheme(
        train_scheme(
            train,
            folder,
            preset="quick",
            config=config,
            classifier_config=short,
            seed=0,
            device=device,
            name=prefix(name),
            classifier_file=options.classifier if needs_classifier else None,
        )
    )
    assert isinstance(scheme, LearnedScheme)
    judged = test.subset(torch.arange(min(options.test_images, len(test))))
    found = similarity(scheme, judged, reference=train, perceptual=False)
    accurate = classify(
        train,
        test,
        config=replace(short, epochs=options.epochs),
        preset=options.classifiers,
        scheme=scheme,
        augment="live",
        seed=0,
        device=device,
        run_path=folder / "judge",
    )
    figures = {
        "accuracy": accurate["metrics"]["accuracy"],
        "inverse_mse_var": scheme.training["transformation"]["inverse"],
    }
    intervals = {"accuracy": accurate["intervals"]["accuracy"]}
    found |= {
        "preset": f"ablation, {config.steps} steps, {options.epochs} epochs",
        "metrics": found["metrics"] | figures,
        "intervals": found["intervals"] | intervals,
        "seconds": scheme.training["transformation"]["seconds"],
    }
    write_json(path, found)
    print(name, {key: round(found["metrics"][key], 4) for key in ("ssim", "reid_within", *figures)}, flush=True)


def table(out: Path) -> str:
    """The records as a Markdown table, in the order of the variants."""
    records = {record["scheme"]: record for record in read_records(out)}
    rows = [(what, records[prefix(name)]) for name, (what, _) in VARIANTS.items() if prefix(name) in records]
    lines = [
        "| objective | SSIM | named within the class | the same, mean subtracted | accuracy "
        "| variance that G_BA leaves | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, record in rows:
        metrics = record["metrics"]
        rates = [f"{100 * metrics[key]:.1f} %" for key in ("reid_within", "reid_within_mean_removed", "accuracy")]
        lines.append(
            f"| {what} | {metrics['ssim']:.3f} | {' | '.join(rates)} | {100 * metrics['inverse_mse_var']:.1f} % "
            f"| {record['seconds']} |"
        )
    return "\n".join([*lines, "", made_on(record for _, record in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="see `imageveil train --data`")
    parser.add_argument("--classifier", type=Path, help="h_theta, from `imageveil classify --preset theta`")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="run directories, to go on in")
    parser.add_argument("--out", type=Path, default=Path("results/ablation"), help="records")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=300, help="of the transformation")
    parser.add_argument("--warm-epochs", type=int, default=4, help="of the encoder")
    parser.add_argument("--epochs", type=int, default=2, help="of the classifier that judges")
    parser.add_argument(
        "--classifiers", default="quick", help="preset of encoder and judge: quick, or smoke for a trial"
    )
    parser.add_argument("--test-images", type=int, default=2000, help="what a viewer sees is measured on so many")
    parser.add_argument("--table", action="store_true", help="print the table of the records and stop")
    options = parser.parse_args()
    if options.table:
        print(table(options.out))
        return
    if options.data is None:
        parser.error("--data is needed, except with --table")
    device = open_device()
    for name in options.only:
        run(name, options, device)


if __name__ == "__main__":
    main()
