"""Commands around schemes and keys: list, describe, make, protect, reveal, export."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from imageveil.cli.options import DeviceName, Precision, app


@app.command()
def schemes(
    size: Annotated[int, typer.Option(min=1, help="Pixels on the side of the images that key bits are for.")] = 32,
) -> None:
    """List all schemes: secret, key bits, whether reversible, what the cloud must change, where published."""
    from imageveil.schemes.catalogue import scheme_lines

    print("\n".join(scheme_lines(size)))


@app.command()
def info(scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")]) -> None:
    """Show what a scheme file holds."""
    from imageveil.schemes.describe import describe

    print(describe(scheme))


@app.command()
def keygen(
    scheme: Annotated[str, typer.Argument(help="Name of a scheme; `imageveil schemes` lists them.")],
    out: Annotated[str, typer.Argument(help="Key file to write, readable by its owner only.")],
    block: Annotated[int | None, typer.Option(help="Pixels on a block's side; the scheme's default otherwise.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Pixels on the side of the images, to judge the key space.")] = 32,
    classifier: Annotated[
        Path | None, typer.Option(help="For `class`: a classifier of plain images, from `classify --run`.")
    ] = None,
) -> None:
    """Make a key file. Whoever has it can undo the protection, and without it the owner cannot."""
    from imageveil.schemes.catalogue import write_key
    from imageveil.training.classifier import class_scheme

    given = class_scheme(classifier) if classifier is not None else None
    made, warning = write_key(scheme, out, block=block, size=size, made=given)
    print(f"{out}: a new {made.name} key")
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


@app.command()
def protect(
    source: Annotated[str, typer.Argument(help="Image folder, Parquet, or cifar10 | cifar100 | stl10.")],
    destination: Annotated[str, typer.Argument(help="Folder for the protected images, apart from the source.")],
    scheme: Annotated[str, typer.Option(help="Shipped name or scheme file.")],
    output: Annotated[str, typer.Option(help="folder | parquet | auto: the kind of the source.")] = "auto",
    format: Annotated[str, typer.Option(help="png | webp, both lossless, or jpeg.")] = "png",
    quality: Annotated[int, typer.Option(help="Quality of --format jpeg, 1 to 100.")] = 95,
    names: Annotated[str, typer.Option(help="keep | hash (keyed) | index: names of the protected images.")] = "keep",
    shard: Annotated[str, typer.Option(help="i/n: only the i-th of n equal shares.")] = "1/1",
    split: Annotated[str | None, typer.Option(help="Only this split; of a data set by name train, else all.")] = None,
    engine: Annotated[str, typer.Option(help="auto: the fastest present, or torch | onnx | openvino.")] = "auto",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode and encode; 0 for none. Not with --ray.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh and replace what is there.")] = False,
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
def reveal(
    key: Annotated[str, typer.Argument(help="Key file the images were protected with.")],
    source: Annotated[str, typer.Argument(help="Folder of protected images.")],
    destination: Annotated[str, typer.Argument(help="Folder for the plain images, as PNG.")],
    private: Annotated[
        Path | None, typer.Option(help="Folder of names.csv and key.json; by default the one beside the images.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Undo a keyed scheme on a folder of protected images."""
    from imageveil.deploy.reveal import reveal_folder

    revealed = reveal_folder(key, source, destination, private=private, overwrite=overwrite)
    print(revealed)
    raise typer.Exit(1 if revealed.skipped else 0)


@app.command()
def export(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    destination: Annotated[str, typer.Argument(help="The ONNX file to write.")],
) -> None:
    """Write a learned scheme as ONNX for batches and images of any size, checked against PyTorch."""
    from imageveil.deploy.onnx import export_scheme

    print(export_scheme(scheme, destination))


@app.command()
def clear_cache() -> None:
    """Delete the decoded plain images that training keeps on disk."""
    from imageveil.images.arrays import clear_cache as clear

    folder = clear()
    print(f"deleted {folder}" if folder is not None else "there was nothing to delete")
