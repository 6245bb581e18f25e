"""The photographs that scikit-image ships, protected at native size: a record, and docs/sheet.png with cuts of them.

python docs/native_size.py gan-cifar10
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imageveil.audit.metrics import ssim
from imageveil.audit.sheets import sheet
from imageveil.audit.similarity import computed_on
from imageveil.deploy.demo import protect_photographs
from imageveil.records import record, write_json
from imageveil.schemes import load_scheme

ROOT = Path(__file__).parents[1]
SHOWN, SIDE = 4, 192


def mean_ssim(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Mean over photographs of the SSIM of two images (3, H, W) each."""
    return float(np.mean([float(ssim(first[None], second[None])[0]) for first, second in pairs]))


def middle(image: Tensor) -> Tensor:
    """The square in the middle of an image (3, H, W), at native size, since scaling would blur the texture."""
    top, left = ((length - SIDE) // 2 for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def main() -> None:
    """Protect, measure, draw."""
    name = sys.argv[1]
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheme = load_scheme(name)
    photographs = protect_photographs(scheme)
    plain, protected = [one.plain for one in photographs], [one.protected for one in photographs]
    grey = [torch.full_like(one, 128) for one in plain]
    found = record(
        task="similarity",
        scheme=name,
        data="scikit-image",
        n=len(plain),
        metrics={"ssim": mean_ssim(list(zip(plain, protected, strict=True)))},
        floors={"blind": {"ssim": mean_ssim(list(zip(plain, grey, strict=True)))}},
        device=computed_on(scheme),
        seconds=round(time.monotonic() - begun, 1),
    )
    write_json(ROOT / "results" / "similarity" / f"scikit-image-{name}.json", found)
    print(f"SSIM {found['metrics']['ssim']:.4f}, of grey images {found['floors']['blind']['ssim']:.4f}, n {found['n']}")
    cuts = [[middle(one) for one in batch[:SHOWN]] for batch in (plain, protected)]
    (ROOT / "docs" / "sheet.png").write_bytes(sheet([*cuts[0], *cuts[1]], columns=SHOWN))


if __name__ == "__main__":
    main()
