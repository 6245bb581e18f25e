"""Table I of Sirichotedumrong and Kiya (arXiv 2006.01342): GA and UWA on 96x96 images, accuracies, theirs beside ours.

    python benchmarks/table_one.py --data data/photos96
    python benchmarks/table_one.py --table

The attacks run in the budget `quick`, one call of `imageveil attack` each; a trial whose record is there is skipped,
one that was interrupted goes on. Accuracies are those of `benchmarks/accuracy.py`. What an attack got is struck out
where it missed its control or has none: it then says nothing of the scheme. The paper's GA uses no labels. Against
networks it needs them here to reach its control, so that both stand there, the one without struck out.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaks import Trial, find_scheme, run

from imageveil.audit.cells import Cell
from imageveil.audit.control_state import load_controls, void_reason, without_labels
from imageveil.audit.verdict import guess
from imageveil.records import made_on
from imageveil.schemes import SCHEMES

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs"))
from model_card import earlier_note, table_records


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
    """GA on every protected row, on networks also without labels; UWA on those that no audit has put to it."""
    chosen = [Trial(scheme=row.scheme, attack="gan") for row in ROWS if row.scheme != "none"]
    chosen += [
        Trial(scheme=row.scheme, attack="gan", values=("labels=no",)) for row in ROWS if row.scheme not in SCHEMES
    ]
    positions = ("pixel-same", "pixel-different", "gan-literal", "tanaka")
    return chosen + [Trial(scheme=name, attack="unshared-weights") for name in positions]


def shown(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def struck(text: str, record: dict[str, Any]) -> str:
    """A figure, struck out where no control vouches for the attack that got it."""
    algorithm = record["scheme"] if record["scheme"] in SCHEMES else "learned"
    void = void_reason(Cell(threat="ciphertext", attack=record["attack"]), algorithm, load_controls())
    return text if (void or without_labels(record)) is None else f"~~{text}~~"


def ssim(record: dict[str, Any] | None) -> str:
    """What an attack reached."""
    return "-" if record is None else struck(f"{record['metrics']['ssim']:.3f}", record)


def named(record: dict[str, Any] | None) -> str:
    """How many images an attack names, beside guessing."""
    if record is None:
        return "-"
    floor, blind = 100 * (guess(record, "reid_within") or 0), guess(record, "ssim")
    text = f"{100 * record['metrics']['reid_within']:.1f} % (guessing {floor:.1f} %, SSIM {blind:.3f}; n {record['n']})"
    return struck(text, record)


def seen(record: dict[str, Any] | None) -> str:
    """How many images are named without any attack, by the protected images as they are."""
    return "-" if record is None else f"{100 * record['metrics']['reid_within']:.1f} %"


def table(records: list[dict[str, Any]], data: str) -> str:
    """The records as Markdown, beside the paper's figures."""
    used: list[dict[str, Any]] = []

    def find(scheme: str, task: str, *, labels: bool = True, **wanted: Any) -> dict[str, Any] | None:
        wanted = {"scheme": scheme, "task": task, "preset": "quick"} | wanted
        alike = [r for r in records if all(r[name] == value for name, value in wanted.items())]
        found = next((r for r in alike if bool(r["metrics"].get("labels", 1)) == labels), None)
        if found is not None:
            used.append(found)
        return found

    def attacked(scheme: str, attack: str, *, labels: bool = True) -> dict[str, Any] | None:
        return find(scheme, "attack", labels=labels, attack=attack, data=data, threat="ciphertext")

    lines = [
        "| scheme | UWA, SSIM | GA, SSIM | without labels | looking, named within the class | "
        "GA, named within the class | CIFAR-10, % | CIFAR-100, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        theirs = row.published or (None,) * 4
        positions = attacked(row.scheme, "unshared-weights")
        taught, published = (attacked(row.scheme, "gan", labels=labels) for labels in (True, False))
        cells = [f"{ssim(positions)} / {shown(theirs[0], '.3f')}", f"{ssim(taught)} / {shown(theirs[1], '.3f')}"]
        looked = find(row.scheme, "similarity", data=data, preset=None)
        cells += [ssim(published), seen(looked), named(taught)]
        for name, value in zip(("cifar10", "cifar100"), theirs[2:], strict=True):
            found = find(row.scheme, "classify", data=name, adaptation=row.adaptation, augment="live")
            mark = " \\*" if found is not None and found["earlier"] else ""
            ours = None if found is None else 100 * found["metrics"]["accuracy"]
            cells.append(f"{shown(ours, '.2f')}{mark} / {shown(value, '.2f')}")
        lines.append(f"| {row.title} (`{row.scheme}`) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *earlier_note(used), made_on(used)])


def look(scheme: str, given: argparse.Namespace) -> None:
    """Measure what the protected images show without any attack, unless the record is there."""
    record = given.out / f"{Path(given.data).name}-similarity-{scheme}.json"
    elsewhere = Path("results/similarity") / f"{Path(given.data).name}-{scheme}.json"
    if record.is_file() or elsewhere.is_file():
        return
    command = [sys.executable, "-m", "imageveil", "similarity", find_scheme(scheme, given.runs)]
    subprocess.run([*command, "--data", given.data, "--out", str(record)], check=True)


def main() -> None:
    """Run the trials that have no record, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/photos96")
    parser.add_argument("--runs", type=Path, default=Path("runs/table-one"))
    parser.add_argument("--out", type=Path, default=Path("results/table-one"))
    parser.add_argument("--preset", default="quick", help="budget of the attacks; the table has those of quick")
    parser.add_argument("--only", nargs="*", default=[], help="trials, as gan-tanaka, or schemes to look at")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(table_records(), Path(given.data).name))
        return
    given.plain = None
    for row in ROWS:
        if row.scheme != "none" and (not given.only or row.scheme in given.only):
            look(row.scheme, given)
    for trial in trials():
        if not given.only or trial.name in given.only:
            run(trial, given)


if __name__ == "__main__":
    main()
