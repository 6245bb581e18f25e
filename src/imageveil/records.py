"""Result records: one JSON object a file, the only thing that reports and tables read."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from imageveil import __version__
from imageveil.errors import RunError, UsageError
from imageveil.processor import this_processor

FIELDS = (
    *("task", "scheme", "data", "network", "adaptation", "augment", "attack", "target", "passed", "void", "threat"),
    *("preset", "seed", "n", "metrics", "floors", "intervals", "commit", "device", "seconds", "command"),
)


def record(**values: Any) -> dict[str, Any]:
    """Return a record with every field of the contract; those not given are null."""
    unknown = set(values) - set(FIELDS)
    assert not unknown, f"unknown record fields {sorted(unknown)}"
    base = {"commit": commit(), "device": device_kind(), "command": command()}
    return {name: values.get(name, base.get(name)) for name in FIELDS}


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with a stable layout.

    Raises:
        RunError: the file cannot be written.
    """
    # Several runs may write the same file: each has a temporary one of its own.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: Path | None) -> None:
    """Make the folder of a file that a long run will write at its end, so that it fails now if it must.

    Raises:
        RunError: nothing can be written there.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    if path.is_dir():
        raise RunError(f"cannot write {path}: it is a folder")


def read_records(root: Path) -> list[dict[str, Any]]:
    """Read every record below `root`, in the order of the paths.

    Raises:
        UsageError: a file cannot be read as JSON.
    """
    found = []
    for path in sorted(root.rglob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is no record: it cannot be read as JSON") from error
    return found


def made_on(records: Iterable[Mapping[str, Any]]) -> str:
    """Commits and machine kinds that some records were made on, as a Markdown list for below their table."""
    return "\n".join(f"- {one}" for one in sorted({f"commit {r['commit']}, {r['device']}" for r in records}))


@cache
def commit() -> str:
    """The commit of the checkout this package runs from, with `+` where files differ.

    Elsewhere what $IMAGEVEIL_COMMIT says, for copies whose history stays behind, or else the version. It is looked up
    once: a long run calls it when it starts, since the checkout may move on meanwhile.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # installed within another project's checkout it fails
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("IMAGEVEIL_COMMIT") or f"v{__version__}"
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    """What git says in the folder of this package."""
    here = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def device_kind(*, cuda: bool | None = None, bf16: bool | None = None) -> str:
    """The machine kind: processor, what it computes in and number of threads, or the name of the GPU.

    Args:
        cuda: whether the GPU is used; None where there is one.
        bf16: whether the processor computes in bfloat16; None where it has a fast one.
    """
    import torch

    if torch.cuda.is_available() if cuda is None else cuda:
        return torch.cuda.get_device_name()
    processor = this_processor()
    # Asked for where it is slow, bfloat16 has no instruction set to be called by.
    fast = processor.bf16 if bf16 is None else bf16 and (processor.bf16 or "bfloat16")
    return f"{processor.model}, {fast or 'float32'}, {torch.get_num_threads()} threads"


def command() -> str:
    """The command line of this process, with the program's name for its path."""
    program = Path(sys.argv[0]).name
    return " ".join(
        ["imageveil" if program in ("imageveil", "__main__.py") else program, *map(_portable, sys.argv[1:])]
    )


def _portable(argument: str) -> str:
    """An argument without the folder it was run in, the user's home, or where else it lies on this machine."""
    for prefix, short in ((str(Path.cwd()), "."), (str(Path.home()), "~")):
        if argument.startswith(prefix + "/"):
            return short + argument[len(prefix) :]
    return Path(argument).name if argument.startswith("/") else argument
