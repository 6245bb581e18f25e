"""Choose gamma1 of the preset `transform`, which its authors set for other features, and print what each weight does.

    python benchmarks/transform_weight.py --data data/cifar10
    python benchmarks/transform_weight.py --table
    python benchmarks/transform_weight.py --keep -0.1

Every weight is judged by training images that the classifier was not shown: what protected ones still show, and the
accuracy of a classifier by the recipe `quick`. Test images have no part in it. `--keep` writes the scheme of one weight
to `results/schemes/transform.safetensors`. A weight whose records are there is skipped.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from imageveil.audit.accuracy import classify
from imageveil.audit.similarity import similarity
from imageveil.images.arrays import deal_out, load_arrays
from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS
from imageveil.records import made_on, read_records, write_json
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.device import Device, open_device
from imageveil.training.pipeline import train_scheme

NAME = "transform"
WEIGHTS = (-0.01, -0.05, -0.1, -0.2)
"""The first is the published one, of features that are larger."""
HELD_BACK, SHOWN = 5000, 1000
"""Training images that the classifier is not shown, and how many of them are compared with their protected selves."""


def label(weight: float) -> str:
    """What records call the scheme of a weight."""
    return f"{NAME}{weight:g}"


def paths(out: Path, weight: float) -> tuple[Path, Path]:
    """The records of a weight: similarity and accuracy."""
    return out / f"{label(weight)}-similarity.json", out / f"{label(weight)}-classify.json"


def recorded(out: Path, weight: float) -> bool:
    """Whether a weight has its records."""
    return all(path.is_file() for path in paths(out, weight))


def run(weight: float, given: argparse.Namespace, device: Device) -> None:
    """Learn the transformation of a weight and judge it, unless its records are there."""
    seen, learned = paths(given.out, weight)
    if recorded(given.out, weight):
        return
    train, test = load_arrays(given.data, "train"), load_arrays(given.data, "test")
    scheme = load_scheme(
        train_scheme(
            train,
            given.runs / label(weight),
            preset=given.preset,
            config=replace(TRANSFORMATION_PRESETS[given.preset](), gamma1=weight),
            classifier_config=CLASSIFIER_PRESETS["theta" if given.preset == NAME else "smoke"](),
            seed=0,
            device=device,
            name=label(weight),
        )
    )
    held_back = deal_out(replace(train, name=f"{train.name}-held-back"), 0, given.held_back)[1]
    shown = held_back.subset(torch.arange(min(SHOWN, len(held_back))))
    write_json(seen, similarity(scheme.to(device.torch), shown, seed=0))
    result = classify(
        train,
        test,
        config=CLASSIFIER_PRESETS[given.recipe](),
        preset=given.recipe,
        scheme=scheme,
        augment="live",
        held_back=given.held_back,
        seed=0,
        device=device,
        run_path=given.runs / label(weight) / "judging",
    )
    write_json(learned, result)


def table(out: Path) -> str:
    """The records as Markdown."""
    records = read_records(out)
    lines = [
        "| gamma1 | SSIM | named within the class | mean subtracted | accuracy, held back (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for weight in WEIGHTS:
        own = {record["task"]: record for record in records if record["scheme"] == label(weight)}
        if len(own) == 2:
            metrics, (low, high) = own["similarity"]["metrics"], own["classify"]["intervals"]["accuracy"]
            named = " | ".join(f"{100 * metrics[f'reid_within{end}']:.1f} %" for end in ("", "_mean_removed"))
            right = f"{100 * own['classify']['metrics']['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"
            lines.append(f"| {weight:g} | {metrics['ssim']:.3f} | {named} | {right} |")
    return "\n".join([*lines, "", made_on(records)])


def keep(weight: float, runs: Path, file: Path) -> None:
    """Write the scheme of a weight under the preset's name."""
    scheme = load_scheme(str(runs / label(weight) / "scheme.safetensors"))
    assert isinstance(scheme, LearnedScheme)
    scheme.label = NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    scheme.save(file)


def main() -> None:
    """Judge the weights that have no records, print the table, or keep the chosen one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/transform"))
    parser.add_argument("--out", type=Path, default=Path("results/transform"))
    parser.add_argument("--preset", default=NAME, choices=(NAME, "smoke"))
    parser.add_argument("--recipe", default="quick", help="of the classifiers that judge")
    parser.add_argument("--held-back", type=int, default=HELD_BACK)
    parser.add_argument("--only", type=float, nargs="*", default=[], help="weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--keep", type=float, metavar="WEIGHT")
    given = parser.parse_args()
    if given.table:
        print(table(given.out))
    elif given.keep is not None:
        keep(given.keep, given.runs, Path("results/schemes") / f"{NAME}.safetensors")
    else:
        device = open_device(given.device)
        for weight in given.only or WEIGHTS:
            run(weight, given, device)


if __name__ == "__main__":
    main()
