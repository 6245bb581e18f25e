"""Accuracy of classifiers on every scheme by one recipe, resumable, and the table beside the published figures.

    python benchmarks/accuracy.py --data data/cifar10 --runs runs/accuracy --out results/classify
    python benchmarks/accuracy.py --data data/cifar10 --out results/classify --table

Each row is one call of `imageveil classify`, with a key that is made once and kept in the run directory. A row whose
record is there is skipped, so the same command goes on where it was stopped.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaks import LEARNED, find_scheme

from imageveil.records import made_on, read_records
from imageveil.schemes import SCHEMES
from imageveil.schemes.base import shipped_schemes

DEFAULT = "quick"
"""Recipe whose records bear no recipe in their names."""
RECIPES = (DEFAULT, "narrow")
"""Recipes that have a column in the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        scheme: name in records.
        adaptation: with the adaptation network that was published with it.
        augment: see `imageveil classify`.
        published: the published accuracy on CIFAR-10 and where it comes from: another network, another budget.
    """

    scheme: str
    adaptation: bool = False
    augment: str = "live"
    published: str = ""

    @property
    def name(self) -> str:
        """Name of the run and of the record, behind the data's and before the recipe's."""
        return self.scheme + ("-adaptation" if self.adaptation else "") + ("-once" if self.augment == "once" else "")


ROWS = (
    Row(scheme="none", published="95.43 %, ResNet-18, 200 epochs; 95.05 % in the paper"),
    Row(scheme="gan-cifar10"),
    Row(scheme="gan-cifar10", augment="once"),
    Row(scheme="gan-literal", published="90.73 %, ResNet-18, 200 epochs, in the paper"),
    Row(scheme="gan-literal", augment="once"),
    Row(scheme="private"),
    Row(scheme="transform"),
    Row(scheme="block-shuffle", published="92.56 %, ResNet-18, 200 epochs"),
    Row(scheme="block-negative", published="93.41 %, ResNet-18, 200 epochs"),
    Row(scheme="block-ffx", published="92.27 %, ResNet-18, 200 epochs"),
    Row(scheme="tanaka", published="94.94 %, Shake-PyramidNet-110, 300 epochs"),
    Row(scheme="tanaka", adaptation=True, published="94.49 % with LE-AdaptNet, the same; 88.96 % in the paper"),
    Row(scheme="extended"),
    Row(scheme="extended", adaptation=True, published="83.06 %, Shake-PyramidNet-110, 300 epochs"),
    Row(scheme="pixel-same", published="93.40 %, ShakeDrop, 100 epochs; 91.29 % in the paper"),
    Row(scheme="pixel-same", adaptation=True),
    Row(scheme="pixel-different", published="93.51 %, ShakeDrop, 100 epochs; 91.14 % in the paper"),
    Row(scheme="pixel-different", augment="once"),
    Row(scheme="compressible"),
    Row(scheme="block-permute"),
    Row(scheme="random-conv"),
    Row(scheme="blur"),
    Row(scheme="shuffle"),
    Row(scheme="noise"),
    Row(scheme="class"),
)


def what_lacks(row: Row, classifier: Path | None) -> str:
    """What a row needs that is not there, in words; empty where nothing is."""
    if row.scheme == "class" and classifier is None:
        return "it is made of a classifier; give --classifier"
    known = row.scheme in SCHEMES or row.scheme in shipped_schemes()
    if known or (LEARNED / f"{row.scheme}.safetensors").is_file():
        return ""
    return f"there is no {LEARNED / row.scheme}.safetensors; imageveil train makes it"


def record_name(row: Row, data: str, preset: str) -> str:
    """Name of a row's run directory and, before `.json`, of its record."""
    return "-".join([Path(data).name, row.name, *([] if preset == DEFAULT else [preset])])


def run(row: Row, data: str, runs: Path, out: Path, preset: str, classifier: Path | None) -> None:
    """Train and judge one classifier, unless its record is there."""
    name = record_name(row, data, preset)
    record = out / f"{name}.json"
    if record.is_file():
        return
    command = [sys.executable, "-m", "imageveil", "classify", "--data", data]
    if lacking := what_lacks(row, classifier):
        print(f"left out {row.name}: {lacking}", file=sys.stderr)
        return
    command += [] if row.scheme == "none" else ["--scheme", find_scheme(row.scheme, runs, classifier)]
    command += ["--preset", preset, "--augment", row.augment, *(["--adaptation"] if row.adaptation else [])]
    command += ["--run", str(runs / name), "--record", str(record)]
    subprocess.run(command, check=True)


def table(data: str, out: Path, presets: Sequence[str]) -> str:
    """The records as Markdown, a column a recipe, beside the published figures."""
    found = {
        (r["preset"], r["scheme"], bool(r["adaptation"]), r["augment"]): r
        for r in read_records(out)
        if r["task"] == "classify" and r["data"] == Path(data).name and r["preset"] in presets
    }
    heads = " | ".join(f"`{preset}` (95 % interval)" for preset in presets)
    lines = [
        f"| scheme | adaptation network | augmented | {heads} | published |",
        "|---|---|---|" + "---|" * len(presets) + "---|",
    ]
    for row in ROWS:
        cells = [found.get((preset, row.scheme, row.adaptation, row.augment)) for preset in presets]
        if any(cells):
            shown = " | ".join(accuracy_and_interval(cell) for cell in cells)
            adapted = "yes" if row.adaptation else "no"
            lines.append(f"| `{row.scheme}` | {adapted} | {row.augment} | {shown} | {row.published} |")
    return "\n".join([*lines, "", made_on(found.values())])


def accuracy_and_interval(record: Mapping[str, Any] | None) -> str:
    """A record's accuracy with its interval, in per cent; nothing where there is no record."""
    if record is None:
        return ""
    low, high = record["intervals"]["accuracy"]
    return f"{100 * record['metrics']['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def main() -> None:
    """Run the rows that have no record, in order, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("results/classify"))
    parser.add_argument("--preset", default=DEFAULT)
    parser.add_argument("--classifier", type=Path, help="of plain images, for the control class; h_theta will do")
    parser.add_argument("--only", nargs="*", default=[], help="names of rows, for example tanaka-adaptation")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(given.data, given.out, RECIPES))
        return
    for row in ROWS:
        if not given.only or row.name in given.only:
            run(row, given.data, given.runs, given.out, given.preset, given.classifier)


if __name__ == "__main__":
    main()
