"""What guesses and partly known images reach in every measure: the table of docs/measures.md.

    python benchmarks/floors_table.py --data DATA [--split test] [--images 2000]

Without --data it measures the demo's embedded photographs (160 test images).
"""

import argparse
from importlib import resources

import torch

from imageveil.audit.floors import table
from imageveil.audit.similarity import best_matcher
from imageveil.images.arrays import load_arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(resources.files("imageveil") / "assets" / "photos"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=2000, help="the first so many; 0 for all")
    options = parser.parse_args()
    data = load_arrays(options.data, options.split)
    if options.images:
        data = data.subset(torch.arange(min(options.images, len(data))))
    found = table(data.images, data.require_labels())
    one = next(iter(found.values())).metrics
    print(f"{data.name}, {len(data)} images; {one['reid_top1_candidates']:.0f} candidates of all classes, ", end="")
    print(f"{one['reid_within_candidates']:.0f} of the same class\n")
    print("| what is shown | MSE/var | SSIM | SSIM, either sign | reid_top1 | reid_within | best matcher |")
    print("|---|---|---|---|---|---|---|")
    for name, leakage in found.items():
        m = leakage.metrics
        print(
            f"| {name} | {m['mse_var']:.2f} | {m['ssim']:.3f} | {m['ssim_either_sign']:.3f} | {m['reid_top1']:.1%} | "
            f"{m['reid_within']:.1%} | {best_matcher(m, 'reid_within')} |"
        )


if __name__ == "__main__":
    main()
