"""`imageveil attack`: one attack on one scheme, by names and paths."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from imageveil.attacks import ATTACKS, Attack, Conditions, make_attack
from imageveil.audit.attack import attack_and_judge, build_knowledge, draw_attack
from imageveil.audit.cloud import Cloud
from imageveil.audit.recognition import Recogniser
from imageveil.audit.sheets import check_png
from imageveil.errors import UsageError
from imageveil.images.arrays import judged, load_arrays, train_and_test
from imageveil.records import check_writable, commit, write_json
from imageveil.schemes import load_scheme
from imageveil.training.device import Device

SHOWN = ("ssim", "psnr", "mse_var", "reid_top1", "reid_within", "recognition", "confirm_top1")


def parse_values(attack: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` texts as fields of an attack.

    Raises:
        UsageError: there is no such field, or the value is of the wrong type or out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    if not texts or attack not in ATTACKS:
        return {}
    known, values = ATTACKS[attack].values(), dict[str, Any]()
    # Without the ranges, and with them.
    plain, types = get_type_hints(ATTACKS[attack]), get_type_hints(ATTACKS[attack], include_extras=True)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise UsageError(f"--set {text!r}: expected name=value with one of: {', '.join(known) or 'none'}")
        try:
            parts = value.split(",") if get_origin(plain[name]) is tuple else value
            values[name] = TypeAdapter(types[name]).validate_python(parts)
        except ValidationError as error:
            raise UsageError(f"--set {name}: {error.errors()[0]['msg'].lower()} (got {value!r})") from error
    return values


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
    classifier: Path | None = None,
    recogniser: Path | None = None,
    out: Path | None = None,
    sheet: Path | None = None,
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
        classifier: under the threat `recipe`, the cloud's classifier for an attack that uses it; None trains one, below
            `run` if that is given.
        recogniser: a classifier of plain images of this kind, to add the figure `recognition`.
        out: JSON file for the record.
        sheet: PNG file for the first judged images: plain, protected and reconstructed.
        seed: decides every random choice.

    Returns:
        The figures as lines of text.

    Raises:
        UsageError: something that was named does not exist or does not go together.
        RunError: a file cannot be written.
    """
    # The checkout may move on while this runs.
    commit()
    check_writable(out)
    if sheet is not None:
        check_png("--sheet", sheet)
        check_writable(sheet)
    chosen = make_attack(attack, values, preset=preset)
    if classifier is not None and not (chosen.needs_classifier and threat == "recipe"):
        raise UsageError(f"{attack} under the threat {threat} has no use for a classifier: leave --classifier out")
    opened = load_scheme(scheme)
    other = None if plain is None else load_arrays(plain, "train")
    train, test = train_and_test(data, seed)
    conditions = Conditions(seed=seed, folder=run)
    if device is not None:
        conditions = replace(conditions, device=device)
    opened.to(conditions.device.torch)
    eye = None if recogniser is None else Recogniser.open(recogniser, test, opened, conditions.device)
    cloud = Cloud(
        classifier=classifier,
        folder=None if run is None else run / "cloud",
        preset="smoke" if preset == "smoke" else "quick",
        device=conditions.device,
        seed=seed,
    )
    options: dict[str, Any] = {"plain": other, "images": images, "pairs": pairs, "seed": seed}
    known = build_knowledge(threat, opened, train, cloud=cloud if chosen.needs_classifier else None, **options)
    test = judged(test, test_images)
    found, guesses = attack_and_judge(
        chosen, opened, known, test, train=train, preset=preset, conditions=conditions, recogniser=eye, seed=seed
    )
    if out is not None:
        write_json(out, found)
    if sheet is not None and not draw_attack(sheet, opened, test, guesses):
        warnings.warn(f"{attack} reconstructs no image, so {sheet} was not drawn", stacklevel=2)
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
