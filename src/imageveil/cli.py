"""The commands: each parses its options, calls one function and prints what came of it."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from imageveil.errors import RunError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    help="Hide images from view before a cloud trains on them, and measure what still leaks.",
)

Data = Annotated[str, typer.Option(help="Image folder, Parquet, or cifar10 | cifar100 | stl10.")]
Seed = Annotated[int, typer.Option(help="Decides every random choice of the run.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto | cpu | cuda.")]
Precision = Annotated[str, typer.Option(help="auto | bf16 | float32.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace a value of the preset: key=value.")]


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory; the same command continues there.")],
    preset: Annotated[
        str | None,
        typer.Option(help="paper | quick | literal | transform | private | smoke; quick, or private with --init."),
    ] = None,
    classifier_preset: Annotated[str, typer.Option(help="Recipe of h_theta and of the warm start.")] = "theta",
    init: Annotated[str | None, typer.Option(help="Continue from this scheme with your own seed and images.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the scheme in records.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    overrides: Overrides = None,
) -> None:
    """Learn a transformation network: classifier, preliminary protection, transformation. Resumes."""
    from imageveil.images.arrays import load_arrays
    from imageveil.presets import CLASSIFIER_PRESETS, TRANSFORMATION_PRESETS, choose
    from imageveil.training.device import open_device
    from imageveil.training.pipeline import train_scheme

    preset = preset or ("quick" if init is None else "private")
    config = choose(TRANSFORMATION_PRESETS, preset, overrides)
    classifier_config = choose(CLASSIFIER_PRESETS, classifier_preset)
    path = train_scheme(
        load_arrays(data, "train"),
        out,
        preset=preset,
        config=config,
        classifier_config=classifier_config,
        seed=seed,
        device=open_device(device, precision=precision),
        test=load_arrays(data, "test"),
        init=init,
        name=name,
    )
    print(f"scheme written to {path}; keep it, and the run directory, to yourself")


@app.command()
def classify(
    data: Data,
    scheme: Annotated[str | None, typer.Option(help="Shipped name or scheme file; none for plain images.")] = None,
    preset: Annotated[str, typer.Option(help="paper | quick | theta | demo | smoke.")] = "quick",
    augment: Annotated[str, typer.Option(help="live: augment, then protect; once: protect, then augment.")] = "live",
    adaptation: Annotated[bool, typer.Option(help="Put the scheme's published adaptation network in front.")] = False,
    run: Annotated[Path | None, typer.Option(help="Run directory; the same command continues there.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    overrides: Overrides = None,
) -> None:
    """Train a classifier on plain or protected images and test it."""
    from imageveil.audit.accuracy import classify as judge
    from imageveil.images.arrays import load_arrays
    from imageveil.presets import CLASSIFIER_PRESETS, choose
    from imageveil.records import write_json
    from imageveil.schemes import load_scheme
    from imageveil.training.device import open_device

    config = choose(CLASSIFIER_PRESETS, preset, overrides)
    result = judge(
        load_arrays(data, "train"),
        load_arrays(data, "test"),
        config=config,
        preset=preset,
        scheme=load_scheme(scheme) if scheme is not None else None,
        augment=augment,
        adaptation=adaptation,
        seed=seed,
        device=open_device(device, precision=precision),
        run_path=run,
    )
    if record is not None:
        write_json(record, result)


@app.command()
def info(scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")]) -> None:
    """Show what a scheme file holds."""
    from imageveil.schemes.describe import describe

    print(describe(scheme))


@app.command()
def schemes(
    size: Annotated[int, typer.Option(help="Pixels on the side of the images that key bits are for.")] = 32,
) -> None:
    """List all schemes: secret, key bits, whether reversible, what the cloud must change, where published."""
    from imageveil.schemes.catalogue import scheme_lines

    print("\n".join(scheme_lines(size)))


@app.command()
def keygen(
    scheme: Annotated[str, typer.Argument(help="Name of a scheme; `imageveil schemes` lists them.")],
    out: Annotated[str, typer.Argument(help="Key file to write, readable by its owner only.")],
    block: Annotated[int | None, typer.Option(help="Pixels on a block's side; the scheme's default otherwise.")] = None,
    size: Annotated[int, typer.Option(help="Pixels on the side of the images, to judge the key space.")] = 32,
) -> None:
    """Make a key file. Whoever has it can undo the protection, and without it the owner cannot."""
    from imageveil.schemes.catalogue import write_key

    made, warning = write_key(scheme, out, block=block, size=size)
    print(f"{out}: a new {made.name} key")
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


@app.command()
def reveal(
    key: Annotated[str, typer.Argument(help="Key file the images were protected with.")],
    source: Annotated[str, typer.Argument(help="Folder of protected images.")],
    destination: Annotated[str, typer.Argument(help="Folder for the plain images, as PNG.")],
) -> None:
    """Undo a keyed scheme on a folder of protected images."""
    from imageveil.deploy.reveal import reveal_folder

    print(reveal_folder(key, source, destination))


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


@app.command()
def similarity(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    split: Annotated[str, typer.Option(help="train | test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    seed: Seed = 0,
) -> None:
    """Measure what protected images still show, without any attack."""
    from imageveil.audit.similarity import run_similarity

    print(run_similarity(scheme, data, split=split, out=out, seed=seed))


@app.command()
def sheet(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    split: Annotated[str, typer.Option(help="train | test.")] = "test",
    images: Annotated[int, typer.Option(help="How many, from the first on.")] = 64,
) -> None:
    """Draw images beside their protected selves."""
    from imageveil.audit.sheets import run_sheet

    print(run_sheet(scheme, data, out=out, split=split, images=images))


@app.command()
def attack(
    attack: Annotated[str, typer.Argument(help="Name of an attack; a wrong one lists them.")],
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    threat: Annotated[str, typer.Option(help="ciphertext | pairs | oracle | gradients.")] = "ciphertext",
    plain: Annotated[str | None, typer.Option(help="Unpaired plain images from elsewhere, in place of half.")] = None,
    images: Annotated[
        int | None, typer.Option(help="Protected images the attacker has; half of all otherwise.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Plain/protected pairs under --threat pairs.")] = 1,
    test_images: Annotated[int, typer.Option(help="Judge on so many test images.")] = 1000,
    preset: Annotated[str, typer.Option(help="Budget of an attack that trains: paper | quick | smoke.")] = "quick",
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, a field of the attack.")] = None,
    run: Annotated[Path | None, typer.Option(help="Directory of its training; the same command continues.")] = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    seed: Seed = 0,
) -> None:
    """Put a scheme to an attack and print what it gets, beside what guessing gets."""
    from imageveil.audit.attack import parse_values, run_attack
    from imageveil.training.device import open_device

    print(
        run_attack(
            attack,
            scheme,
            data,
            threat=threat,
            plain=plain,
            images=images,
            pairs=pairs,
            test_images=test_images,
            values=parse_values(attack, set_ or ()),
            preset=preset,
            run=run,
            device=open_device(device, precision=precision),
            out=out,
            seed=seed,
        )
    )


@app.command()
def controls(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the records.")],
    plain: Annotated[str | None, typer.Option(help="Unpaired plain images from elsewhere, in place of half.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this attack; may be repeated.")] = None,
    test_images: Annotated[int, typer.Option(help="Judge on so many test images.")] = 1000,
    preset: Annotated[str, typer.Option(help="Budget of attacks that train: paper | quick | smoke.")] = "quick",
    run: Annotated[Path | None, typer.Option(help="Directory of their training; the same command continues.")] = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    table: Annotated[bool, typer.Option("--table", help="Run nothing; print the records as a table.")] = False,
    seed: Seed = 0,
) -> None:
    """Run the attacks where they are known to work, and say which reach the figure they must."""
    from imageveil.audit.controls import controls_table, run_controls
    from imageveil.training.device import open_device

    if table:
        print(controls_table(out))
        return
    print(
        run_controls(
            data,
            out,
            plain=plain,
            only=only or (),
            test_images=test_images,
            preset=preset,
            run=run,
            device=open_device(device, precision=precision),
            seed=seed,
        )
    )


@app.command()
def clear_cache() -> None:
    """Delete the decoded plain images that training keeps on disk."""
    from imageveil.images.arrays import clear_cache as clear

    print(f"deleted {clear()}")


@app.command()
def protect(
    source: Annotated[str, typer.Argument(help="Image folder, Parquet, or cifar10 | cifar100 | stl10.")],
    destination: Annotated[str, typer.Argument(help="Folder for the protected images, apart from the source.")],
    scheme: Annotated[str, typer.Option(help="Shipped name or scheme file.")],
    output: Annotated[str, typer.Option(help="folder | parquet | auto: the kind of the source.")] = "auto",
    format: Annotated[str, typer.Option(help="png | webp, both lossless, or jpeg.")] = "png",
    quality: Annotated[int, typer.Option(help="Quality of JPEG, 1 to 100.")] = 95,
    names: Annotated[str, typer.Option(help="keep | hash (keyed) | index: names of the protected images.")] = "keep",
    shard: Annotated[str, typer.Option(help="i/n: only the i-th of n equal shares.")] = "1/1",
    split: Annotated[str | None, typer.Option(help="Only this split, for example train.")] = None,
    engine: Annotated[str, typer.Option(help="auto: the fastest present, or torch | onnx | openvino.")] = "auto",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that decode and encode; 0 for none.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files, and runs with other options.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the work with Ray, over a cluster if one is up.")] = False,
) -> None:
    """Protect every image of a folder or data set; the same command continues an interrupted run."""
    from imageveil.deploy.bulk import ProtectOptions, protect_source

    options = ProtectOptions(
        output=output,
        format=format,
        quality=quality,
        names=names,
        shard=shard,
        split=split,
        engine=engine,
        device=device,
        precision=precision,
        workers=workers,
        strict=strict,
        overwrite=overwrite,
        ray=ray,
    )
    summary = protect_source(source, destination, scheme, options)
    print("\n".join(summary.lines()))
    raise typer.Exit(summary.exit_code)


@app.command()
def export(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    destination: Annotated[str, typer.Argument(help="The ONNX file to write.")],
) -> None:
    """Write a learned scheme as ONNX for batches and images of any size, checked against PyTorch."""
    from imageveil.deploy.onnx import export_scheme

    print(export_scheme(scheme, destination))


def main() -> None:
    """Run the command line: exit code 2 for wrong use, 1 for a run that failed, one sentence for either."""
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    try:
        app()
    except UsageError as error:
        print(f"imageveil: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"imageveil: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("imageveil: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
