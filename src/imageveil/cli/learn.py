"""Commands that train: a scheme, a classifier, the demo."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from imageveil.cli.options import SEED_RANGE, Data, DeviceName, Overrides, Precision, Seed, app


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory; the same command continues there.")],
    preset: Annotated[
        str | None,
        typer.Option(help="paper | quick | literal | transform | private | smoke; quick, or private with --init."),
    ] = None,
    classifier_preset: Annotated[
        str | None, typer.Option(help="Recipe of h_theta and of the warm start; theta if left out.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="h_theta, from `classify --preset theta`; one is trained otherwise.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Continue from this scheme with your own images.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the scheme in records.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="For experiments; by default a secret one is drawn and kept in the run directory.", **SEED_RANGE
        ),
    ] = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    overrides: Overrides = None,
) -> None:
    """Learn a transformation network: classifier, preliminary protection, transformation. Resumes."""
    from imageveil.errors import UsageError
    from imageveil.images.arrays import load_splits
    from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS, choose
    from imageveil.schemes.base import shipped_schemes
    from imageveil.training.device import open_device
    from imageveil.training.pipeline import train_scheme

    preset = preset or ("quick" if init is None else "private")
    config = choose(TRANSFORMATION_PRESETS, preset, overrides)
    if classifier_preset is not None and not (config.needs_classifier or config.warm_epochs):
        raise UsageError(f"the preset {preset!r} trains no classifier: leave --classifier-preset out")
    classifier_config = choose(CLASSIFIER_PRESETS, classifier_preset or "theta")
    images, test = load_splits(data)
    path = train_scheme(
        images,
        out,
        preset=preset,
        config=config,
        classifier_config=classifier_config,
        seed=seed,
        device=open_device(device, precision=precision),
        test=test,
        init=init,
        name=name,
        classifier_file=classifier,
    )
    print(f"scheme written to {path}; keep it, and the run directory, to yourself")
    if init in shipped_schemes():
        print(
            f"it continues from the public {init}: with a classifier trained on what it protects, and other images of "
            "the kind, the protected ones can be rebuilt; leave --init out where the cloud must not see them",
            file=sys.stderr,
        )


@app.command()
def classify(
    data: Data,
    scheme: Annotated[str | None, typer.Option(help="Shipped name or scheme file; left out, plain images.")] = None,
    preset: Annotated[str, typer.Option(help="paper | quick | narrow | theta | demo | smoke.")] = "quick",
    augment: Annotated[str, typer.Option(help="live: augment, then protect; once: protect, then augment.")] = "live",
    adaptation: Annotated[bool, typer.Option(help="Put the scheme's published adaptation network in front.")] = False,
    held_back: Annotated[
        int,
        typer.Option(help="To choose a recipe: judge on so many training images, left out, not on the test images."),
    ] = 0,
    run: Annotated[Path | None, typer.Option(help="Run directory; the same command continues there.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    overrides: Overrides = None,
) -> None:
    """Train a classifier on plain or protected images and test it."""
    from imageveil.audit.accuracy import classify as judge
    from imageveil.images.arrays import train_and_test
    from imageveil.presets import CLASSIFIER_PRESETS, choose
    from imageveil.records import check_writable, write_json
    from imageveil.schemes import load_scheme
    from imageveil.training.device import open_device

    config = choose(CLASSIFIER_PRESETS, preset, overrides)
    check_writable(record)
    opened = open_device(device, precision=precision)
    result = judge(
        *train_and_test(data, seed),
        config=config,
        preset=preset,
        scheme=load_scheme(scheme) if scheme is not None else None,
        augment=augment,
        adaptation=adaptation,
        held_back=held_back,
        seed=seed,
        device=opened,
        run_path=run,
    )
    if record is not None and opened.rank == 0:
        write_json(record, result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the two training runs.")] = Path("out/demo"),
    scheme: Annotated[str, typer.Option(help="Shipped name or scheme file.")] = "gan-cifar10",
    data: Annotated[str | None, typer.Option(help="Labelled images instead of the ones in the package.")] = None,
    preset: Annotated[str, typer.Option(help="Recipe of the classifier, as in `classify`.")] = "demo",
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Protect photographs, train on plain and on protected ones, and write a page about it."""
    from imageveil.deploy.demo import run_demo
    from imageveil.training.device import open_device

    chosen = open_device(device, precision=precision)
    print(f"open {run_demo(out, scheme=scheme, data=data, preset=preset, seed=seed, device=chosen)}")
