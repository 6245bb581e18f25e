"""The command line: help is quick to load, errors are one sentence with the right exit code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import imageveil
from imageveil import records
from imageveil.errors import RunError
from imageveil.processor import Processor
from imageveil.records import check_writable, write_json
from imageveil.training.device import Device


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
        (["info", "tanaka"], "make one with `imageveil keygen tanaka FILE`"),
        (["controls", "--out", "unused"], "give --data"),
        (["controls", "--out", "nowhere", "--table"], "holds no record of a control"),
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


def test_an_unwritable_record_is_noticed_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*record"):
        check_writable(tmp_path / "file" / "record.json")
    with pytest.raises(RunError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "file" / "record.json", {})
    check_writable(tmp_path / "new" / "record.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_installed_in_another_projects_checkout_its_commit_is_not_ours(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    installed = tmp_path / "venv" / "records.py"
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(records, "__file__", str(installed))
    assert records.commit.__wrapped__() == f"v{imageveil.__version__}"
    subprocess.run([*git, "add", "-f", str(installed)], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert re.fullmatch("[0-9a-f]{12}", records.commit.__wrapped__())
    installed.write_text("changed")
    assert records.commit.__wrapped__().endswith("+")


def test_records_name_no_place_of_this_machine(monkeypatch):
    words = ["x/imageveil", "attack", "--out", "/tmp/elsewhere/one.json", "data/cifar10", str(Path.cwd() / "here")]
    monkeypatch.setattr(sys, "argv", words)
    assert records.command() == "imageveil attack --out one.json data/cifar10 ./here"


def test_records_say_what_was_computed_in(monkeypatch):
    processor = Processor(model="One Processor", flags=frozenset({"amx_bf16"}))
    monkeypatch.setattr(records, "this_processor", lambda: processor)
    fast, slow = (Device(torch=torch.device("cpu"), bf16=bf16).kind for bf16 in (True, False))
    assert fast.startswith("One Processor, AMX, ") and slow.startswith("One Processor, float32, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Device(torch=torch.device("cpu"), bf16=False).kind == slow
