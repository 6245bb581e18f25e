"""The application, and the options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    help="Hide images from view before a cloud trains on them, and measure what still leaks.",
)

SEED_RANGE = {"min": 0, "max": 2**63 - 1}
"""What torch and NumPy both take; longer seeds are drawn ones."""

Data = Annotated[str, typer.Option(help="Image folder, Parquet, or cifar10 | cifar100 | stl10.")]
Seed = Annotated[int, typer.Option(help="Decides every random choice of the run.", **SEED_RANGE)]
DeviceName = Annotated[str, typer.Option("--device", help="auto | cpu | cuda.")]
Precision = Annotated[str, typer.Option(help="auto | bf16 | float32.")]
ClassifierFile = Annotated[
    Path | None, typer.Option(help="The cloud's classifier, for --threat recipe; one is trained otherwise.")
]
RecogniserFile = Annotated[
    Path | None, typer.Option(help="A classifier of plain images of this kind: adds the figure recognition.")
]
SurrogateFile = Annotated[
    list[Path] | None,
    typer.Option(help="A scheme that the attacker made by the same recipe, for --threat recipe; may be repeated."),
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace a value of the preset: key=value.")]
