"""Draw one photograph under every scheme: docs/schemes.png. Run: python docs/schemes_sheet.py."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from imageveil.networks.vgg import QuickNet
from imageveil.schemes import SCHEMES, Scheme, load_scheme
from imageveil.schemes.base import shipped_schemes

RESULTS = Path(__file__).parents[1] / "results"
SIDE, LABEL, COLUMNS, GAP = 80, 14, 6, 6
KEY = bytes(range(32))
"""A fixed key, so that the sheet is the same every time; never use such a key for images."""


def sheet_schemes() -> dict[str, Scheme]:
    """Every scheme: plain, learned, keyed, controls; `class` with a network that predicts at random."""
    kinds: dict[str, Any] = dict(SCHEMES)
    schemes: dict[str, Scheme] = {"none": kinds["none"]()}
    learned = {name: name for name in shipped_schemes()}
    learned |= {path.stem: str(path) for path in sorted((RESULTS / "schemes").glob("*.safetensors"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shipped one says that it is public
        schemes |= {name: load_scheme(path) for name, path in learned.items()}
    for name, kind in sorted(kinds.items(), key=lambda item: (item[1].kind == "control", item[0])):
        if hasattr(kind, "generate") and name != "none":
            schemes[name] = kind() if name == "blur" else kind(KEY)
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"classes": 10, "widths": [4, 8, 8]}
    schemes["class"] = kinds["class"](QuickNet(**arguments), {"network": "quick", "arguments": arguments})
    return schemes


def draw(path: Path) -> None:
    """Write the sheet."""
    astronaut = Image.fromarray(data.astronaut()).crop((80, 0, 368, 288)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    photograph = torch.from_numpy(np.array(astronaut)).permute(2, 0, 1)[None]
    schemes = sheet_schemes()
    rows = -(-len(schemes) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LABEL + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for place, (name, scheme) in enumerate(schemes.items()):
        x, y = GAP + place % COLUMNS * (SIDE + GAP), GAP + place // COLUMNS * (SIDE + LABEL + GAP)
        out = scheme.protect(photograph, ids=["astronaut"])[0].permute(1, 2, 0).numpy()
        pen.text((x, y), name if name != "none" else "none (plain)", fill="black", font=font)
        sheet.paste(Image.fromarray(out), (x, y + LABEL))
    sheet = sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(__file__).with_name("schemes.png"))
