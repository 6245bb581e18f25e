"""What guesses and partly known images reach in every measure: the tables of docs/measures.md.

python benchmarks/floors_table.py --data data/cifar10 --out results/floors
python benchmarks/floors_table.py                                            # the demo's 160 test photographs
python benchmarks/floors_table.py --table cifar10
"""

import argparse
import time
from importlib import resources
from pathlib import Path

from imageveil.audit.floors import floors
from imageveil.audit.floors import table as measure_all
from imageveil.audit.reidentification import MATCHERS
from imageveil.audit.similarity import best_matcher
from imageveil.images.arrays import judged, load_arrays
from imageveil.records import commit, made_on, read_records, record, write_json

SCHEME = "guesses"
"""What records call all of them together."""

SHOWN = ("mse_var", "ssim", "ssim_either_sign", "reid_top1", "reid_within")
KEPT = (*SHOWN, *(f"reid_within_{matcher}" for matcher in MATCHERS))


def run(data: str, split: str, images: int, out: Path) -> Path:
    """Measure and write the record, whose metrics are called `<what is shown>/<measure>`."""
    commit()
    begun = time.monotonic()
    plain = load_arrays(data, split)
    plain = judged(plain, images or len(plain))
    labels = plain.require_labels()
    found = measure_all(plain.images, labels)
    one = next(iter(found.values())).metrics
    metrics = {f"{name}/{key}": leakage.metrics[key] for name, leakage in found.items() for key in KEPT}
    metrics |= {name: one[name] for name in ("reid_top1_candidates", "reid_within_candidates")}
    made = record(
        task="similarity",
        scheme=SCHEME,
        data=plain.name,
        seed=0,
        n=len(plain),
        metrics=metrics,
        floors=floors(plain.images, labels),
        seconds=round(time.monotonic() - begun, 1),
    )
    path = out / f"{plain.name}.json"
    write_json(path, made)
    return path


def table(out: Path, data: str) -> str:
    """The record of a data set as a Markdown table."""
    found = next(row for row in read_records(out) if row["data"] == data)
    metrics = found["metrics"]
    lines = [
        f"{found['n']:,} images; {metrics['reid_top1_candidates']:.0f} candidates of all classes, "
        f"{metrics['reid_within_candidates']:.0f} of the same class:",
        "",
        "| what is shown | MSE/var | SSIM | SSIM, either sign | reid_top1 | reid_within | best matcher |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(key.split("/")[0] for key in metrics if "/" in key):
        m = {key.split("/")[1]: value for key, value in metrics.items() if key.startswith(f"{name}/")}
        lines.append(
            f"| {name} | {m['mse_var']:.2f} | {m['ssim']:.3f} | {m['ssim_either_sign']:.3f} | {m['reid_top1']:.1%} | "
            f"{m['reid_within']:.1%} | {best_matcher(m, 'reid_within')} |"
        )
    return "\n".join([*lines, "", made_on([found])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(resources.files("imageveil") / "assets" / "photos"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=0, help="so many; 0 for all")
    parser.add_argument("--out", type=Path, default=Path("results/floors"))
    parser.add_argument("--table", metavar="DATA", help="measure nothing; print the record of these images")
    given = parser.parse_args()
    if given.table is None:
        given.table = run(given.data, given.split, given.images, given.out).stem
    print(table(given.out, given.table))


if __name__ == "__main__":
    main()
