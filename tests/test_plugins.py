"""Schemes and attacks of other installed packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCHEMES_PAGE = Path(__file__).parents[1] / "docs" / "schemes.md"

SAME_COLOUR = """
from dataclasses import dataclass

import torch

from imageveil.attacks import Attack, Reconstruction


class Grey(Reconstruction):
    def reconstruct(self, protected, labels=None):
        return torch.full_like(protected, 128)


@dataclass(frozen=True, kw_only=True)
class SameColour(Attack):
    name = "same-colour"

    def fit(self, knowledge, conditions=None):
        return Grey()
"""


@pytest.fixture
def install(tmp_path):
    """Writes modules where a package that offers them would be installed."""

    def write(package: str, group: str, modules: dict[str, str]) -> None:
        site = tmp_path / "site"
        about = site / f"{package}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{one} = {one}\n" for one in modules))
        for name, code in modules.items():
            (site / f"{name}.py").write_text(code)

    return write


def imageveil(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the packages that are installed below the folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-m", "imageveil", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not SCHEMES_PAGE.is_file(), reason="a checkout has documentation, an sdist has none")
def test_the_scheme_of_the_documentation_serves_every_command(install, faces, tmp_path):
    example = re.search(r"```python\n(\"\"\"row_shuffle.*?)```", SCHEMES_PAGE.read_text(), re.DOTALL)
    install("rows", "imageveil.schemes", {"row_shuffle": example[1]})
    install("colours", "imageveil.attacks", {"same_colour": SAME_COLOUR})
    for split, part in (("train", faces[:20]), ("test", faces[20:30])):
        (tmp_path / "faces" / split / "face").mkdir(parents=True)
        for number, face in enumerate(part):
            pixels = face.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / "faces" / split / "face" / f"{number}.png")
    assert re.search(r"^row-shuffle +key +118 +yes +nothing +an example$", imageveil(tmp_path, "schemes").stdout, re.M)

    made = imageveil(tmp_path, "keygen", "row-shuffle", "key")
    assert "row-shuffle has only 118 key bits" in made.stdout + made.stderr
    assert imageveil(tmp_path, "protect", "faces/test", "hidden", "--scheme", "key").returncode == 0
    assert imageveil(tmp_path, "reveal", "key", "hidden", "shown").returncode == 0
    for number in range(10):
        plain, hidden, shown = (
            np.asarray(Image.open(tmp_path / folder / "face" / f"{number}.png").convert("RGB"))
            for folder in ("faces/test", "hidden", "shown")
        )
        assert (plain == shown).all() and (plain != hidden).any()
        assert sorted(map(bytes, plain)) == sorted(map(bytes, hidden))  # the same rows

    attacked = imageveil(tmp_path, "attack", "same-colour", "key", "--data", "faces")
    assert attacked.returncode == 0, attacked.stderr
    assert "on row-shuffle, threat ciphertext" in attacked.stdout


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import nowhere_to_be_found", "ModuleNotFoundError"), ("raise SystemError('broken')", "SystemError: broken")],
)
def test_what_cannot_be_imported_is_left_out_and_said(install, code, reason, tmp_path):
    install("broken", "imageveil.schemes", {"worse": code})
    done = imageveil(tmp_path, "schemes")
    assert done.returncode == 0 and "pixel-same" in done.stdout
    assert f"note: worse of the package broken is left out: {reason}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
