"""The cheap attacks on every scheme with a key, resumable, and the table of the cheapest that breaks each.

    python benchmarks/breaks.py --data data/cifar10 --plain data/cifar100 --out results/attacks
    imageveil audit --table results/attacks

Each trial is one call of `imageveil attack` on a key that is made once and kept in the run directory. A trial whose
record is there is skipped. Attacks that train for minutes are left to `imageveil audit`.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from imageveil.attacks import ATTACKS
from imageveil.schemes import SCHEMES
from imageveil.schemes.catalogue import generate_scheme
from imageveil.training.classifier import class_scheme

LEARNED = Path("results/schemes")
"""Learned schemes that are recorded for comparison and not shipped."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one scheme.

    Attributes:
        scheme: name in records; see `find_scheme`.
        attack: name of the attack.
        pairs: plain/protected pairs that it gets; 0 for protected images alone.
        images: protected images that it gets.
        values: fields of the attack, as `--set` takes them.
    """

    scheme: str
    attack: str
    pairs: int = 0
    images: int = 1000
    values: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its record, behind the data's."""
        return "-".join([self.attack, self.scheme, *([f"{self.pairs}-pairs"] if self.pairs else []), *self.values])


BLOCKS = ("tanaka", "extended", "compressible", "block-shuffle", "block-negative", "block-ffx", "block-permute")
PLACES = ("patch-permutation", "shuffle")

TRIALS = (
    *(Trial(scheme=name, attack="statistics") for name in ("pixel-same", *BLOCKS, *PLACES)),
    *(Trial(scheme=name, attack="statistics", images=100) for name in (*BLOCKS, *PLACES)),
    Trial(scheme="pixel-different", attack="feature-reconstruction", images=1),
    Trial(scheme="pixel-different", attack="feature-reconstruction", images=1, values=("variant=basic",)),
    *(Trial(scheme=name, attack="key-recovery", pairs=1) for name in ("tanaka", "block-shuffle", "block-negative")),
    *(Trial(scheme=name, attack="key-recovery", pairs=2) for name in ("pixel-same", "compressible", "block-ffx")),
    *(Trial(scheme=name, attack="key-recovery", pairs=2) for name in ("extended", "block-permute")),
    *(Trial(scheme="patch-permutation", attack="key-recovery", pairs=number) for number in (1, 4)),
    *(Trial(scheme="shuffle", attack="key-recovery", pairs=number) for number in (4, 12)),
)


def find_scheme(name: str, runs: Path, classifier: Path | None = None) -> str:
    """What to give to the commands for a scheme: a file under `results`, a shipped name, or a key.

    Args:
        name: in records.
        runs: where keys are kept; one is made when it is first needed.
        classifier: of plain images, for `class`.
    """
    learned = LEARNED / f"{name}.safetensors"
    if learned.is_file():
        return str(learned)
    if name not in SCHEMES:
        return name
    key = runs / "keys" / f"{name}.safetensors"
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True)
        made = class_scheme(classifier) if name == "class" and classifier is not None else generate_scheme(name)
        made.save(key)
    return str(key)


def run(trial: Trial, given: argparse.Namespace) -> None:
    """Attack, unless the record is there; an attack that trains goes on where it was stopped."""
    few = f"-{trial.images}" if trial.images != 1000 else ""
    name = f"{Path(given.data).name}-{trial.name}{few}"
    record = given.out / f"{name}.json"
    if record.is_file():
        return
    command = [sys.executable, "-m", "imageveil", "attack", trial.attack, find_scheme(trial.scheme, given.runs)]
    command += ["--data", given.data, "--images", str(max(trial.images, trial.pairs)), "--out", str(record)]
    command += ["--plain", given.plain] if given.plain else []
    command += ["--preset", given.preset]
    command += ["--threat", "pairs", "--pairs", str(trial.pairs)] if trial.pairs else []
    command += [part for value in trial.values for part in ("--set", value)]
    if ATTACKS[trial.attack].budgets:
        command += ["--run", str(given.runs / name), "--sheet", str(record.with_suffix(".png"))]
    print(name, flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Run the trials that have no record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/cifar10")
    parser.add_argument("--plain", help="unpaired plain images from elsewhere; half of the training images otherwise")
    parser.add_argument("--runs", type=Path, default=Path("runs/breaks"))
    parser.add_argument("--out", type=Path, default=Path("results/attacks"))
    parser.add_argument("--preset", default="quick", help="budget of attacks that train")
    parser.add_argument("--only", nargs="*", default=[], help="names of schemes")
    given = parser.parse_args()
    for trial in TRIALS:
        if not given.only or trial.scheme in given.only:
            run(trial, given)


if __name__ == "__main__":
    main()
