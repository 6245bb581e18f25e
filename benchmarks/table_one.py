"""Table I of Sirichotedumrong and Kiya (arXiv 2006.01342): GA and UWA on 96x96 images, accuracies, theirs beside ours.

    python benchmarks/table_one.py --data data/photos96
    python benchmarks/table_one.py --table

The attacks run in the budget `quick`, one call of `imageveil attack` each; a trial whose record is there is skipped.
Accuracies are those of `benchmarks/accuracy.py`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaks import Trial, run

from imageveil.records import made_on, read_records


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper's table.

    Attributes:
        title: what the paper calls it, and what it is here.
        scheme: name in records.
        adaptation: whether the paper trains with the scheme's adaptation network.
        published: SSIM of UWA and of GA, accuracy on CIFAR-10 and CIFAR-100 in percent; None where the paper has none.
    """

    title: str
    scheme: str
    adaptation: bool = False
    published: tuple[float | None, float | None, float, float] | None = None


PROPOSED = (None, 0.0956, 90.73, 67.36)
ROWS = (
    Row(title="proposed, to the letter", scheme="gan-literal", published=PROPOSED),
    Row(title="what ships in its place", scheme="gan-cifar10"),
    Row(title="pixel-based, same key", scheme="pixel-same", published=(0.1715, 0.2688, 91.29, 67.17)),
    Row(title="pixel-based, different keys", scheme="pixel-different", published=(0.0425, 0.1527, 91.14, 67.28)),
    Row(title="Tanaka", scheme="tanaka", adaptation=True, published=(None, 0.7152, 88.96, 68.13)),
    Row(title="plain", scheme="none", published=(None, None, 95.05, 77.24)),
)


def trials() -> list[Trial]:
    """GA on every protected row, UWA on the pixel-wise ones."""
    chosen = [Trial(scheme=row.scheme, attack="gan") for row in ROWS if row.scheme != "none"]
    return chosen + [Trial(scheme=name, attack="unshared-weights") for name in ("pixel-same", "pixel-different")]


def cell(ours: float | None, theirs: float | None, form: str) -> str:
    """Our figure and the paper's, each as a dash where there is none."""
    return " / ".join("-" if value is None else format(value, form) for value in (ours, theirs))


def table(out: Path, data: str) -> str:
    """The records as Markdown, beside the paper's figures."""
    records = read_records(out)
    used: list[dict[str, Any]] = []

    def find(scheme: str, task: str, **wanted: Any) -> dict[str, Any] | None:
        wanted |= {"scheme": scheme, "task": task, "preset": "quick"}
        found = next((r for r in records if all(r[name] == value for name, value in wanted.items())), None)
        if found is not None:
            used.append(found)
        return found

    lines = [
        "| scheme | UWA, SSIM | GA, SSIM | GA, named within the class | CIFAR-10, % | CIFAR-100, % |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        theirs = row.published or (None,) * 4
        attacks = [find(row.scheme, "attack", attack=name, data=data) for name in ("unshared-weights", "gan")]
        cells = [
            cell(None if one is None else one["metrics"]["ssim"], value, ".3f")
            for one, value in zip(attacks, theirs[:2], strict=True)
        ]
        named = None if attacks[1] is None else 100 * attacks[1]["metrics"]["reid_within"]
        cells.append("-" if named is None else f"{named:.1f} %")
        for name, value in zip(("cifar10", "cifar100"), theirs[2:], strict=True):
            found = find(row.scheme, "classify", data=name, adaptation=row.adaptation, augment="live")
            cells.append(cell(None if found is None else 100 * found["metrics"]["accuracy"], value, ".2f"))
        lines.append(f"| {row.title} (`{row.scheme}`) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", made_on(used)])


def main() -> None:
    """Run the trials that have no record, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/photos96")
    parser.add_argument("--runs", type=Path, default=Path("runs/table-one"))
    parser.add_argument("--out", type=Path, default=Path("results/attacks"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(given.out.parent, Path(given.data).name))
        return
    given.plain = None
    for trial in trials():
        run(trial, given)


if __name__ == "__main__":
    main()
