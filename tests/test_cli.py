"""The command line: help is quick to load, errors are one sentence with the right exit code."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "imageveil", *arguments], capture_output=True, text=True, timeout=120)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['imageveil', '--help']\n"
        "from imageveil.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pyarrow', 'onnx', 'ray', 'skimage', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("train", "protect", "classify", "info", "demo"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "nowhere.safetensors"], "there is no scheme"),
        (["classify", "--data", "nowhere"], "does not exist"),
        (["classify", "--data", "nowhere", "--preset", "huge"], "unknown preset"),
        (["train", "--data", "nowhere", "--out", "unused"], "does not exist"),
        (["train", "--data", "nowhere", "--out", "unused", "--set", "steps=many"], "--set steps"),
    ],
)
def test_wrong_use_is_one_sentence_and_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "seed"), [([], None), (["--seed", "3"], 3)])
def test_train_draws_its_seed_unless_one_is_given(given, seed, monkeypatch):
    from imageveil.cli import app

    seen = []

    def train_scheme(*_, **options):
        seen.append(options["seed"])
        return "scheme"

    monkeypatch.setattr("imageveil.images.arrays.load_splits", lambda data: (None, None))
    monkeypatch.setattr("imageveil.training.pipeline.train_scheme", train_scheme)
    done = CliRunner().invoke(
        app, ["train", "--data", "x", "--out", "y", "--preset", "smoke", "--device", "cpu", *given]
    )
    assert done.exit_code == 0 and seen == [seed]
