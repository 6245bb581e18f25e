"""The command line: help is quick to load, errors are one sentence with the right exit code."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import imageveil
from imageveil import records
from imageveil.cli import app, main
from imageveil.deploy.pool import open_pool
from imageveil.errors import RunError
from imageveil.processor import Processor
from imageveil.records import check_writable, write_json
from imageveil.schemes.catalogue import write_key
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
        (
            ["train", "--data", "nowhere", "--out", "unused", "--init", "gan-cifar10", "--classifier-preset", "quick"],
            "leave --classifier-preset out",
        ),
    ],
)
def test_wrong_use_is_one_sentence_and_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["protect", "plain", "x" * 5000, "--scheme", "none.key"], 1, "File name too long"),
        (["protect", "x" * 5000, "out", "--scheme", "none.key"], 2, "cannot be reached: File name too long"),
        (["protect", "plain", "out", "--scheme", "x" * 5000], 2, "cannot be reached: File name too long"),
        (["protect", "plain", "out", "--scheme", "none.key", "--quality", "3"], 2, "--quality is for --format jpeg"),
        (["protect", "plain", "out", "--scheme", "none.key", "--ray", "--workers", "2"], 2, "--workers is for one"),
        (["keygen", "tanaka", ""], 2, "names no file"),
        (["keygen", "tanaka", "none.key/x"], 1, "cannot write the scheme file none.key/x"),
        (["keygen", "tanaka", "x" * 300], 1, "File name too long"),
        (["keygen", "tanaka", "none.key"], 2, "none.key exists"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_key("none", "none.key")
    monkeypatch.setattr(sys, "argv", ["imageveil", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == code and words in told and len(told.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.key"]


def replaced(lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command `schemes` in a process of its own, with something else in place of its table."""
    code = (
        "import os, signal, sys; sys.argv = ['imageveil', 'schemes']\n"
        # A job in the background of a shell script inherits that it is to be ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import imageveil.schemes.catalogue as catalogue\n"
        f"catalogue.scheme_lines = lambda size: {lines}\n"
        "from imageveil.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_a_ctrl_c_is_told_in_one_sentence_and_left_to_the_main_process():
    done = replaced("signal.raise_signal(signal.SIGINT)")
    assert done.returncode == 130
    assert done.stderr.startswith("imageveil: interrupted; ") and len(done.stderr.splitlines()) == 1
    with open_pool(1) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result(30) == signal.SIG_IGN


@pytest.mark.parametrize("module", ["torch", "numpy"])
def test_memory_that_runs_out_is_told_in_one_sentence(module):
    done = replaced(f"__import__('{module}').empty(2**55)")
    assert done.returncode == 1
    assert done.stderr.startswith("imageveil: memory ran out; ") and len(done.stderr.splitlines()) == 1


def test_an_error_that_nobody_caused_keeps_its_traceback():
    done = replaced("(_ for _ in ()).throw(RuntimeError('shapes'))")
    assert done.returncode == 1 and "Traceback" in done.stderr and "shapes" in done.stderr


def test_names_that_are_no_text_can_be_told():
    done = replaced("['caf' + chr(0xdce9)]", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0 and done.stdout == "caf\\udce9\n"


@pytest.mark.parametrize(("kind", "code"), [("png", 1), ("png", 0), ("jpeg", 0)])
def test_reveal_tells_what_was_lost(kind, code, photograph, tmp_path):
    (tmp_path / "plain").mkdir()
    for number in range(2):
        pixels = photograph[:, 32 * number : 32 * number + 32, 50:82]
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "plain" / f"{number}.png")
    plain, key, out, back = (str(tmp_path / name) for name in ("plain", "key", "out", "back"))
    write_key("tanaka", key)
    done = CliRunner().invoke(app, ["protect", plain, out, "--scheme", key, "--workers", "0", "--format", kind])
    assert done.exit_code == 0, done.output
    if code:
        (tmp_path / "out" / "1.png").write_bytes(b"\x89PNG, or what is left of it")
    done = CliRunner().invoke(app, ["reveal", key, out, back])
    assert done.exit_code == code and f"{2 - code} images revealed" in done.output
    assert ("skipped 1.png" in done.output) == bool(code) and ("not exact" in done.output) == (kind == "jpeg")


def test_a_cache_that_is_not_there_is_not_said_to_be_deleted():
    assert CliRunner().invoke(app, ["clear-cache"]).output == "there was nothing to delete\n"


@pytest.mark.parametrize(("given", "seed"), [([], None), (["--seed", "3"], 3)])
def test_train_draws_its_seed_unless_one_is_given(given, seed, monkeypatch):
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


@pytest.mark.parametrize(("init", "told"), [("gan-cifar10", True), ("own.safetensors", False), (None, False)])
def test_train_tells_who_continues_from_public_weights(init, told, monkeypatch):
    monkeypatch.setattr("imageveil.images.arrays.load_splits", lambda data: (None, None))
    monkeypatch.setattr("imageveil.training.pipeline.train_scheme", lambda *_, **options: "scheme")
    start = [] if init is None else ["--init", init]
    done = CliRunner().invoke(app, ["train", "--data", "x", "--out", "y", "--device", "cpu", *start])
    assert done.exit_code == 0 and ("leave --init out" in done.output) == told


@pytest.mark.parametrize(
    "command", [["similarity", "x", "--data", "y"], ["train", "--data", "x", "--out", "y"], ["demo"]]
)
@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_a_seed_that_cannot_work_is_refused(command, seed):
    done = CliRunner().invoke(app, [*command, "--seed", seed])
    assert done.exit_code == 2 and "Invalid value for '--seed'" in done.output


def test_an_unwritable_record_is_noticed_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*record"):
        check_writable(tmp_path / "file" / "record.json")
    with pytest.raises(RunError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "file" / "record.json", {})
    # Another process that writes the same record has a temporary file of another name.
    (tmp_path / "other.json.tmp").mkdir()
    write_json(tmp_path / "other.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other.json", "other.json.tmp"]
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
    monkeypatch.delenv("IMAGEVEIL_COMMIT", raising=False)
    assert records.commit.__wrapped__() == f"v{imageveil.__version__}"
    monkeypatch.setenv("IMAGEVEIL_COMMIT", "0123456789ab")
    assert records.commit.__wrapped__() == "0123456789ab"
    subprocess.run([*git, "add", "-f", str(installed)], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert re.fullmatch("[0-9a-f]{12}", ours := records.commit.__wrapped__()) and ours != "0123456789ab"
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
    monkeypatch.setattr(records, "this_processor", lambda: Processor(model="Another"))
    assert Device(torch=torch.device("cpu"), bf16=True).kind.startswith("Another, bfloat16, ")
    assert records.device_kind(cuda=False).startswith("Another, float32, ")
    monkeypatch.setattr(records, "this_processor", lambda: processor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Device(torch=torch.device("cpu"), bf16=False).kind == slow
