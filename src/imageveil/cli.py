"""The commands: each parses its options, calls one function and prints what came of it."""

import sys
import warnings
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
def info(scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")]) -> None:
    """Show what a scheme file holds."""
    from imageveil.schemes.describe import describe

    print(describe(scheme))


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
