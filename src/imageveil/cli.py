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
def info(scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")]) -> None:
    """Show what a scheme file holds."""
    from imageveil.schemes.describe import describe

    print(describe(scheme))


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
    from imageveil.training.loop import open_device

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
def clear_cache() -> None:
    """Delete the decoded plain images that training keeps on disk."""
    from imageveil.images.arrays import clear_cache as clear

    print(f"deleted {clear()}")


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
