"""Put a scheme to an attack: build what the attacker may know, let it run, judge it on held-out test images."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imageveil.attacks import Attack, Conditions, Knowledge, Matcher, Reconstruction, knowledge
from imageveil.attacks.jigsaw import Assembly
from imageveil.attacks.knowledge import THREATS, protect_batches
from imageveil.attacks.learning import trained_seconds
from imageveil.audit.cloud import Cloud, public_recipe
from imageveil.audit.floors import floors
from imageveil.audit.intervals import wilson
from imageveil.audit.leakage import measure
from imageveil.audit.metrics import crop_to
from imageveil.audit.puzzles import puzzle_figures
from imageveil.audit.recognition import Recogniser
from imageveil.audit.sheets import write_sheet
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays
from imageveil.records import record
from imageveil.schemes import Scheme
from imageveil.schemes.blocks import pad_to_blocks

EXACT = "exact"
"""What records say of attacks that have no training budget."""

DRAWN = 8
COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an attack got out of the judged images.

    Attributes:
        metrics: figures by the names that records use.
        intervals: 95 % intervals by metric.
        shown: reconstructions, uint8 (N, 3, H, W), or None for an attack that makes none.
        ssim: SSIM of every reconstruction (N,), to order sheets by; None without reconstructions.
        seconds: what the attack took for them, without the judgement. Some attacks do all their work here.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    seconds: float
    shown: Tensor | None = None
    ssim: Tensor | None = None


def build_knowledge(
    threat: str,
    scheme: Scheme,
    train: ImageArrays,
    *,
    plain: ImageArrays | None = None,
    images: int | None = None,
    pairs: int = 1,
    seed: int = 0,
    cloud: Cloud | None = None,
    base: Knowledge | None = None,
    public: Mapping[str, Any] | None = None,
) -> Knowledge:
    """Build the knowledge of a threat model by name; see `imageveil.attacks.knowledge`.

    Args:
        threat: the threat model.
        scheme: the scheme under attack.
        train: the owner's training images.
        plain: unpaired plain images of another source.
        images: use only so many protected images.
        pairs: number of pairs under the threat `pairs`.
        seed: decides the halves.
        cloud: under `recipe`, where the cloud's classifier comes from; None where the attack has no use for it.
        base: the knowledge under `ciphertext` from the same arguments, so that nothing is protected twice.
        public: under `recipe`, what is public about the making of the scheme; None takes `public_recipe`.

    Raises:
        UsageError: there is no such threat model, or it cannot be built from this.
    """
    options: dict[str, Any] = {"plain": plain, "images": images, "seed": seed, "base": base}

    def recipe() -> Knowledge:
        seen = knowledge.ciphertext(scheme, train, **options)
        return knowledge.recipe(
            scheme,
            train,
            classifier=None if cloud is None else cloud.open(seen, train.classes),
            public=public_recipe(scheme) if public is None else public,
            **(options | {"base": seen}),
        )

    builders: dict[str, Callable[[], Knowledge]] = {
        "ciphertext": lambda: knowledge.ciphertext(scheme, train, **options),
        "recipe": recipe,
        "pairs": lambda: knowledge.pairs(scheme, train, number=pairs, **options),
        "oracle": lambda: knowledge.oracle(scheme, train, **options),
        "gradients": lambda: knowledge.gradients(scheme, train, **options),
    }
    if threat not in builders:
        raise UsageError(f"there is no threat model {threat!r}; choose one of: {', '.join(THREATS)}")
    return builders[threat]()


def judge(
    found: Reconstruction | Matcher,
    plain: Tensor,
    protected: Tensor,
    labels: Tensor | None,
    *,
    recogniser: Recogniser | None = None,
    seed: int = 0,
) -> Judged:
    """Judge what an attack learned on images it has not seen.

    Args:
        found: the result of `Attack.fit`.
        plain: held-out plain images, uint8 (N, 3, H, W).
        protected: the same images protected, uint8 (N, 3, H', W').
        labels: their classes (N,), or None.
        recogniser: adds `recognition`, its rate on the reconstructions; it needs labels.
        seed: decides candidate sets and resampling.

    Raises:
        UsageError: there are fewer than two images.
    """
    begun = time.monotonic()
    if isinstance(found, Matcher):
        scores = found.scores(protected, plain)
        seconds = time.monotonic() - begun
        hits = int((scores.argmax(dim=1) == torch.arange(len(plain))).sum())
        figures = {"confirm_top1": hits / len(plain), "confirm_candidates": float(len(plain))}
        return Judged(metrics=figures, intervals={"confirm_top1": list(wilson(hits, len(plain)))}, seconds=seconds)
    whole = found.reconstruct(protected, labels)
    shown = crop_to(whole, plain)
    seconds = time.monotonic() - begun
    leakage = measure(plain, shown, labels, seed=seed, perceptual=True)
    exact = float((shown == plain).double().mean())
    metrics = leakage.metrics | {"bytes_exact": exact} | found.figures()
    if isinstance(found, Assembly):
        metrics |= puzzle_figures(pad_to_blocks(plain, found.block), whole, found.block)
    intervals = leakage.intervals
    if recogniser is not None and labels is not None:
        metrics["recognition"], intervals["recognition"] = recogniser.measure(shown, labels)
    return Judged(metrics=metrics, intervals=intervals, shown=shown, ssim=leakage.ssim, seconds=seconds)


def attack_and_judge(
    attack: Attack,
    scheme: Scheme,
    known: Knowledge,
    test: ImageArrays,
    *,
    train: ImageArrays | None = None,
    floor: dict[str, dict[str, float]] | None = None,
    preset: str = "quick",
    conditions: Conditions | None = None,
    recogniser: Recogniser | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], Judged]:
    """Run an attack and judge it.

    Args:
        attack: the attack.
        scheme: the scheme, to protect the judged images with.
        known: what the attacker has.
        test: held-out images.
        train: the owner's training images, for the floors' means; None takes those of `test`.
        floor: the floors of `test`, if they are known already; None measures them.
        preset: the budget that the attack was made with, for the record.
        conditions: seed, device and run directory of the attack; None takes the defaults with `seed`.
        recogniser: adds `recognition`; see `judge`.
        seed: decides every random choice of the judgement.

    Returns:
        A record of the task `attack`, and the reconstructions behind it. `seconds` is the attack alone on all judged
        images, without the judgement, with all training behind it: in its run directory before, or of a network that
        it found trained. `attacker_protected`, `attacker_plain` and `attacker_pairs` say how many images it had.
    """
    conditions = conditions or Conditions(seed=seed)
    begun = time.monotonic()
    found = attack.fit(known, conditions)
    learning = max(time.monotonic() - begun, trained_seconds(conditions.folder))
    protected = protect_batches(scheme, test.images, test.keys)
    judged = judge(found, test.images, protected, test.labels, recogniser=recogniser, seed=seed)
    if isinstance(found, Matcher):
        floor = {"chance": {"confirm_top1": 1 / len(test)}}
        if test.labels is not None:
            # Who knows the label chooses among the images of the class: on average over images, one of so many.
            floor["label_only"] = {"confirm_top1": len(test.labels.unique()) / len(test)}
    elif floor is None:
        floor = all_floors(test, train, recogniser=recogniser, seed=seed)
    seconds = learning + judged.seconds
    if isinstance(found, Reconstruction):
        seconds += found.seconds_before
    made = record(
        task="attack",
        scheme=scheme.label,
        data=test.name,
        attack=attack.name,
        threat=known.threat,
        preset=preset if attack.budgets else EXACT,
        seed=conditions.seed,
        n=len(test),
        metrics=judged.metrics | attacker_figures(known),
        floors=floor,
        intervals=judged.intervals,
        device=conditions.device.kind,
        seconds=round(seconds, 2),
    )
    return made, judged


def draw_attack(path: Path, scheme: Scheme, test: ImageArrays, judged: Judged) -> bool:
    """Draw the first eight judged images: plain, protected, and what an attack made of them.

    Args:
        path: PNG file to write.
        scheme: the scheme that was attacked.
        test: the judged images.
        judged: what the attack got out of them.

    Returns:
        Whether there was anything to draw: an attack that only matches makes no image.

    Raises:
        RunError: the file cannot be written.
    """
    if judged.shown is None:
        return False
    few = test.subset(torch.arange(min(DRAWN, len(test))))
    write_sheet(path, few.images, protect_batches(scheme, few.images, few.keys), judged.shown[:DRAWN], columns=COLUMNS)
    return True


def attacker_figures(known: Knowledge) -> dict[str, float]:
    """How many protected images, unpaired plain images and pairs an attacker had; pairs only where they are counted."""
    found = {"attacker_protected": float(len(known.protected)), "attacker_plain": float(len(known.plain))}
    return found if known.known_pairs is None else found | {"attacker_pairs": float(len(known.known_pairs))}


def all_floors(
    test: ImageArrays, train: ImageArrays | None, *, recogniser: Recogniser | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The floors of judged images, those of recognition among them.

    Their means are those of the owner's training images, the best that anybody could know, and not of what one
    attacker happens to have: floors of one data set are the same whoever attacks. Without training images they are
    those of the judged images.
    """
    reference = None if train is None else (train.images, train.labels)
    found = floors(test.images, test.labels, reference=reference, seed=seed)
    if recogniser is not None and test.labels is not None:
        rates = recogniser.floors(test.images, test.labels, reference=reference, seed=seed)
        for kind, rate in rates.items():
            found.setdefault(kind, {})["recognition"] = rate
    return found
