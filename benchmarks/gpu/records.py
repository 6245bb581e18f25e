"""Make the records that are missing, several at once on one GPU, until the time is up.

    python benchmarks/gpu/records.py --data data --minutes 8 --at-once 6
    python benchmarks/gpu/records.py --data data --list

Accuracies of every scheme, positive controls, the attacks of Table I, the audits of the shipped scheme on `cifar10`
and `photos96`, attacks on the scheme continued from it, and the weights that `transform` is chosen among. Each job is a
command that skips what is recorded and continues what was begun, so this one is simply repeated. `--preset smoke` tries
them on a processor; its records belong outside `results`. Start NVIDIA's MPS before (`nvidia-cuda-mps-control -d`):
small networks of many processes then run side by side on the GPU, not in turn.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageveil.audit.cells import Cell, plan
from imageveil.audit.cloud import public_recipe
from imageveil.audit.control_table import CONTROLS
from imageveil.schemes import SCHEMES, load_scheme

sys.path.append(str(Path(__file__).resolve().parents[1]))
import accuracy
import table_one
import transform_weight
from breaks import find_scheme

BENCHMARKS = Path(__file__).resolve().parents[1]
SCHEME, AUDITED, PRIVATE = "gan-cifar10", ("cifar10", "photos96"), "private"
TRAINED = Cell(threat="oracle", attack="inverse-network").name
CONTINUED = Cell(threat="gradients", attack="gradients", values={"start": "inverse"}).name
"""A cell of an audit, and the one that starts from its network."""
IMAGEVEIL = [sys.executable, "-m", "imageveil"]
LONGEST = "sdar"
"""Part of the names of the jobs that take longest, and are therefore started first."""
POLL = 0.5
"""Seconds between two looks at what is running."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command, or several of which each needs the one before.

    Attributes:
        name: what to call it.
        commands: their command lines.
        log: file for what they print.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path

    def start(self, threads: int) -> subprocess.Popen[bytes]:
        """Start it in a process group of its own, which can be ended as a whole."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        line = " && ".join(shlex.join(command) for command in self.commands)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                line,
                shell=True,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )


def accuracies(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """A classifier for every row without a record; that of `class` needs one of plain images first."""
    out, data = given.results / "classify", str(given.data / "cifar10")
    for row in accuracy.ROWS:
        plain = given.runs / "accuracy" / f"cifar10-none-{given.preset}"
        if (out / f"{accuracy.record_name(row, data, given.preset)}.json").is_file():
            continue
        classify = [*IMAGEVEIL, "classify", "--data", data, "--preset", given.preset, "--run", str(plain)]
        needs = [classify] if row.scheme == "class" else []
        command = [sys.executable, str(BENCHMARKS / "accuracy.py"), "--data", data, "--preset", given.preset]
        command += ["--runs", str(given.runs / "accuracy"), "--out", str(out), "--only", row.name]
        command += ["--classifier", str(plain / "classifier.safetensors")] if needs else []
        if needs or not accuracy.what_lacks(row, None):
            yield f"accuracy-{row.name}", [*needs, command]


def controls(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """The controls without a record, together where they are on one scheme: they may build on one another."""
    out, missing = given.results / "controls", dict[tuple[str, str], list[str]]()
    for row in CONTROLS:
        data = "photos96" if row.pieces else "cifar10"
        if not (out / f"{row.name}-{data}.json").is_file():
            missing.setdefault((row.scheme, data), []).append(f"{row.attack}:{row.scheme}")
    for (scheme, data), names in missing.items():
        command = [*IMAGEVEIL, "controls", "--data", str(given.data / data), "--out", str(out)]
        command += ["--preset", given.preset, "--run", str(given.runs / "controls")]
        command += [part for name in sorted(set(names)) for part in ("--only", name)]
        yield f"control-{scheme}-{data}", [command]


def attacks_of_table_one(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """Every attack of Table I without a record."""
    out, data = given.results / "table-one", str(given.data / "photos96")
    for trial in table_one.trials():
        if not (out / f"photos96-{trial.name}.json").is_file():
            command = [sys.executable, str(BENCHMARKS / "table_one.py"), "--data", data, "--out", str(out)]
            command += ["--runs", str(given.runs / "table-one"), "--preset", given.preset, "--only", trial.name]
            yield f"table-one-{trial.name}", [command]


def audits(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """A job for every cell without a record; one that continues from another's training comes behind that."""
    recipe = public_recipe(load_scheme(SCHEME))
    for name in AUDITED:
        left = {
            cell.name: ["--cell", cell.name]
            for cell in plan("learned", preset=given.preset, recipe=recipe)
            if not (audit_folder(given, name) / "cells" / cell.name / "record.json").is_file()
        }
        start = left.pop(CONTINUED, None)
        if start is not None:
            left[TRAINED] = [*left.get(TRAINED, ["--cell", TRAINED]), *start]
        for cell, options in left.items():
            yield f"audit-{name}-{cell}", [[*audit(given, name), *options]]


def audit_folder(given: argparse.Namespace, name: str) -> Path:
    """Where the audit on a data set is."""
    folder: Path = given.results / "audits" / f"{SCHEME}-{name}"
    return folder


def audit(given: argparse.Namespace, name: str) -> list[str]:
    """The whole audit on a data set; with every cell recorded it writes the page in seconds."""
    command = [*IMAGEVEIL, "audit", SCHEME, "--data", str(given.data / name), "--preset", given.preset]
    command += ["--surrogate", str(given.surrogate)] if given.surrogate else []
    return [*command, "--out", str(audit_folder(given, name))]


def private(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """What an attacker who knows the recipe of the scheme continued from public weights gets, without a record."""
    out, data = given.results / "attacks", given.data / "cifar10"
    for attack in ("leaked-inverse", "sdar"):
        record = out / f"cifar10-{attack}-{PRIVATE}-recipe.json"
        if not record.is_file():
            command = [*IMAGEVEIL, "attack", attack, find_scheme(PRIVATE, given.runs), "--data", str(data)]
            command += ["--threat", "recipe", "--preset", given.preset, "--run", str(given.runs / record.stem)]
            command += ["--out", str(record), "--sheet", str(record.with_suffix(".png"))]
            yield f"private-{attack}", [command]


def transforms(given: argparse.Namespace) -> Iterator[tuple[str, list[list[str]]]]:
    """Every weight that `benchmarks/transform_weight.py` chooses among."""
    out, data = given.results / "transform", str(given.data / "cifar10")
    for weight in transform_weight.WEIGHTS:
        if not transform_weight.recorded(out, weight):
            command = [sys.executable, str(BENCHMARKS / "transform_weight.py"), "--data", data, "--out", str(out)]
            command += ["--runs", str(given.runs / "transform"), "--only", str(weight)]
            command += (
                ["--preset", "smoke", "--recipe", "smoke", "--held-back", "50"] if given.preset == "smoke" else []
            )
            yield f"transform{weight:g}", [command]


KINDS = {
    "controls": controls,
    "transform": transforms,
    "table-one": attacks_of_table_one,
    "audits": audits,
    "private": private,
    "accuracy": accuracies,
}
"""What is made, in this order."""


def run(jobs: Sequence[Job], *, at_once: int, until: float) -> list[str]:
    """Run jobs side by side, and end those that the time does not suffice for.

    Args:
        jobs: in the order in which they are started.
        at_once: how many run at a time.
        until: when to end all, on the clock of `time.monotonic`.

    Returns:
        Names of those that did not come to their end, or not to a good one.
    """
    threads = max(1, (os.cpu_count() or 1) // at_once)
    waiting, running, left = list(jobs), dict[str, subprocess.Popen[bytes]](), list[str]()
    while (waiting or running) and time.monotonic() < until:
        while waiting and len(running) < at_once:
            job = waiting.pop(0)
            running[job.name] = job.start(threads)
            print(f"started {job.name}", flush=True)
        time.sleep(POLL)
        for name, process in list(running.items()):
            if (status := process.poll()) is not None:
                del running[name]
                print(f"{'done' if status == 0 else 'FAILED'} {name}", flush=True)
                left += [name] if status else []
    for process in running.values():
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    return [*left, *running, *(job.name for job in waiting)]


def main() -> None:
    """Run what is missing, or list it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds cifar10 and photos96")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--preset", default="quick")
    parser.add_argument(
        "--surrogate", type=Path, help="another run of the audited scheme's recipe, see imageveil audit"
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    jobs = [
        Job(name=name, commands=commands, log=given.runs / "logs" / f"{name}.log")
        for kind in given.only
        for name, commands in KINDS[kind](given)
    ]
    if given.list:
        print("\n".join(f"{job.name}: {' && '.join(map(shlex.join, job.commands))}" for job in jobs))
        return
    jobs.sort(key=lambda job: LONGEST not in job.name)
    for name in sorted({row.scheme for row in accuracy.ROWS} & SCHEMES.keys() - {"class"}):
        find_scheme(name, given.runs / "accuracy")  # several jobs share a key, and must not make one each
    left = run(jobs, at_once=given.at_once, until=until)
    for name in AUDITED:
        if "audits" in given.only and not any(one.startswith(f"audit-{name}") for one in left):
            subprocess.run(audit(given, name), check=True)
    print(f"left: {', '.join(left)}" if left else "everything is recorded")
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
