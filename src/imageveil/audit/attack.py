"""Put a scheme to an attack: build what the attacker may know, let it run, judge it on held-out test images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from imageveil.attacks import ATTACKS, Attack, Conditions, Knowledge, Matcher, Reconstruction, knowledge, make_attack
from imageveil.attacks.jigsaw import Assembly
from imageveil.attacks.knowledge import THREATS, protect_batches
from imageveil.audit.floors import floors
from imageveil.audit.intervals import wilson
from imageveil.audit.leakage import measure
from imageveil.audit.metrics import crop_to
from imageveil.audit.puzzles import puzzle_figures
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, load_arrays
from imageveil.records import record, write_json
from imageveil.schemes import Scheme, load_scheme
from imageveil.training.device import Device

EXACT = "exact"
"""What records say of attacks that have no training budget."""

SHOWN = ("ssim", "psnr", "mse_var", "reid_top1", "reid_within", "confirm_top1")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an attack got out of the judged images.

    Attributes:
        metrics: figures by the names that records use.
        intervals: 95 % intervals by metric.
        shown: reconstructions, uint8 (N, 3, H, W), or None for an attack that makes none.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    shown: Tensor | None


def parse_values(attack: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` texts as fields of an attack.

    Raises:
        UsageError: there is no such field, or the value is of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    if not texts or attack not in ATTACKS:
        return {}
    types = get_type_hints(ATTACKS[attack])
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in (known := ATTACKS[attack].values()):
            raise UsageError(f"--set {text!r}: expected name=value with one of: {', '.join(known) or 'none'}")
        try:
            values[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"--set {name}: {error.errors()[0]['msg'].lower()} (got {value!r})") from error
    return values


def build_knowledge(
    threat: str,
    scheme: Scheme,
    train: ImageArrays,
    *,
    plain: ImageArrays | None = None,
    images: int | None = None,
    pairs: int = 1,
    seed: int = 0,
) -> Knowledge:
    """Build the knowledge of a threat model by name; see `imageveil.attacks.knowledge`.

    Raises:
        UsageError: there is no such threat model, or it cannot be built from this.
    """
    options: dict[str, Any] = {"plain": plain, "images": images, "seed": seed}
    builders: dict[str, Callable[[], Knowledge]] = {
        "ciphertext": lambda: knowledge.ciphertext(scheme, train, **options),
        "pairs": lambda: knowledge.pairs(scheme, train, number=pairs, **options),
        "oracle": lambda: knowledge.oracle(scheme, train, **options),
        "gradients": lambda: knowledge.gradients(scheme, train, **options),
    }
    if threat not in builders:
        if threat in THREATS:
            raise UsageError(f"--threat {threat} needs the cloud's classifier; use --threat ciphertext without one")
        raise UsageError(f"there is no threat model {threat!r}; choose one of: {', '.join(builders)}")
    return builders[threat]()


def judge(
    found: Reconstruction | Matcher, plain: Tensor, protected: Tensor, labels: Tensor | None, *, seed: int = 0
) -> Judged:
    """Judge what an attack learned on images it has not seen.

    Args:
        found: the result of `Attack.fit`.
        plain: held-out plain images, uint8 (N, 3, H, W).
        protected: the same images protected, uint8 (N, 3, H', W').
        labels: their classes (N,), or None.
        seed: decides candidate sets and resampling.

    Raises:
        UsageError: there are fewer than two images.
    """
    if isinstance(found, Matcher):
        scores = found.scores(protected, plain)
        hits = int((scores.argmax(dim=1) == torch.arange(len(plain))).sum())
        figures = {"confirm_top1": hits / len(plain), "confirm_candidates": float(len(plain))}
        return Judged(metrics=figures, intervals={"confirm_top1": list(wilson(hits, len(plain)))}, shown=None)
    shown = crop_to(found.reconstruct(protected, labels), plain)
    leakage = measure(plain, shown, labels, seed=seed)
    exact = float((shown == plain).double().mean())
    metrics = leakage.metrics | {"bytes_exact": exact} | found.figures()
    if isinstance(found, Assembly):
        metrics |= puzzle_figures(plain, shown, found.block)
    return Judged(metrics=metrics, intervals=leakage.intervals, shown=shown)


def attack_scheme(
    attack: Attack,
    scheme: Scheme,
    known: Knowledge,
    test: ImageArrays,
    *,
    floor: dict[str, dict[str, float]] | None = None,
    preset: str = "quick",
    conditions: Conditions | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run an attack and judge it.

    Args:
        attack: the attack.
        scheme: the scheme, to protect the judged images with.
        known: what the attacker has.
        test: held-out images.
        floor: the floors of `test`, if they are known already; None measures them.
        preset: the budget that the attack was made with, for the record.
        conditions: device and run directory of an attack that trains; None takes the defaults.
        seed: decides every random choice.

    Returns:
        A record of the task `attack`; `seconds` is the attack alone, without the judgement.
    """
    begun = time.monotonic()
    found = attack.fit(known, replace(conditions or Conditions(), seed=seed))
    seconds = time.monotonic() - begun
    judged = judge(found, test.images, protect_batches(scheme, test.images, test.keys), test.labels, seed=seed)
    if isinstance(found, Matcher):
        floor = {"chance": {"confirm_top1": 1 / len(test)}}
    elif floor is None:
        floor = floors(test.images, test.labels, reference=(known.plain, known.plain_labels), seed=seed)
    return record(
        task="attack",
        scheme=scheme.label,
        data=test.name,
        attack=attack.name,
        threat=known.threat,
        preset=preset if attack.budgets else EXACT,
        seed=seed,
        n=len(test),
        metrics=judged.metrics,
        floors=floor,
        intervals=judged.intervals,
        seconds=round(seconds, 2),
    )


def run_attack(
    attack: str,
    scheme: str,
    data: str,
    *,
    threat: str,
    plain: str | None = None,
    images: int | None = None,
    pairs: int = 1,
    test_images: int = 1000,
    values: dict[str, Any] | None = None,
    preset: str = "quick",
    run: Path | None = None,
    device: Device | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> str:
    """Attack a scheme by name or file with images by name or path; write the record if `out` is given.

    Args:
        attack: name of an attack.
        scheme: shipped name or scheme file.
        data: images with the splits `train` (the owner's and the attacker's) and `test` (judged).
        threat: the threat model.
        plain: unpaired plain images of another source.
        images: use only so many protected images.
        pairs: number of pairs under the threat `pairs`.
        test_images: judge on so many test images, from the first on.
        values: fields of the attack that differ from its preset's.
        preset: budget of an attack that trains.
        run: directory for its training, to be continued by the same call.
        device: where it trains; None for the processor.
        out: JSON file for the record.
        seed: decides every random choice.

    Returns:
        The figures as lines of text.

    Raises:
        UsageError: something that was named does not exist or does not go together.
        RunError: a file cannot be written.
    """
    chosen, opened = make_attack(attack, values, preset=preset), load_scheme(scheme)
    other = None if plain is None else load_arrays(plain, "train")
    train, test = load_arrays(data, "train"), load_arrays(data, "test")
    known = build_knowledge(threat, opened, train, plain=other, images=images, pairs=pairs, seed=seed)
    test = test.subset(torch.arange(min(test_images, len(test))))
    conditions = Conditions(folder=run) if device is None else Conditions(folder=run, device=device)
    found = attack_scheme(chosen, opened, known, test, preset=preset, conditions=conditions, seed=seed)
    if out is not None:
        write_json(out, found)
    return describe(found, chosen)


def describe(found: dict[str, Any], attack: Attack) -> str:
    """An attack's record in words: each figure with its interval, its floors and chance."""
    lines = [
        f"{attack} on {found['scheme']}, threat {found['threat']}, {found['data']}, {found['n']} test images, "
        f"{found['seconds']} s",
        f"{'':12} {'measured':>9} {'95 % interval':>18} {'blind':>8} {'label-only':>11} {'chance':>8}",
    ]
    for name in SHOWN:
        if name in found["metrics"]:
            low, high = found["intervals"][name]
            kinds = (found["floors"].get(kind, {}) for kind in ("blind", "label_only", "chance"))
            cells = [f"{kind[name]:.3f}" if name in kind else "" for kind in kinds]
            line = f"{name:12} {found['metrics'][name]:9.3f} {f'{low:.3f} to {high:.3f}':>18}"
            lines.append(f"{line} {cells[0]:>8} {cells[1]:>11} {cells[2]:>8}".rstrip())
    return "\n".join(lines)
