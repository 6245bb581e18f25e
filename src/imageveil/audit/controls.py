"""Running positive controls.

An attack that fails says nothing about a scheme unless it succeeds where it should. Where a control is missed, the
attack's results are void.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imageveil.attacks import Conditions, knowledge, make_attack
from imageveil.audit.attack import attack_and_judge, build_knowledge, draw_attack
from imageveil.audit.cloud import Cloud
from imageveil.audit.control_table import CONTROLS, Control, command, trained_before
from imageveil.audit.short_run import short_run
from imageveil.errors import UsageError
from imageveil.images.arrays import ImageArrays, judged, load_arrays, train_and_test
from imageveil.records import commit, read_records, write_json
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.device import Device

CLOUD_EPOCHS = 4
"""Of the classifier that the attacker of a control takes from the cloud."""


def run_control(
    control: Control,
    train: ImageArrays,
    test: ImageArrays,
    *,
    plain: ImageArrays | None = None,
    preset: str = "quick",
    conditions: Conditions | None = None,
    picture: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run one control.

    Args:
        control: the row.
        train: images of the owner and of the attacker.
        test: held-out images to judge on.
        plain: unpaired plain images of another source; None takes half of `train`.
        preset: budget of an attack that trains.
        conditions: device and run directory of an attack that trains; None takes the defaults, with `seed`.
        picture: PNG file to draw the first judged images to: plain, protected and reconstructed.
        seed: decides the key and every random choice.

    Returns:
        A record of the task `control`: `target` holds the metric's name and figure first, then `tolerance` or
        `at_most` where they apply; `passed` says whether it was reached.

    Raises:
        RunError: the picture cannot be written.
    """
    conditions = replace(conditions or Conditions(), seed=seed)
    device = conditions.device
    options: dict[str, Any] = {"plain": plain, "images": control.images, "seed": seed}
    values = control.values
    with ExitStack() as stack:
        if control.scheme == LearnedScheme.name:
            stolen = conditions.folder or Path(stack.enter_context(TemporaryDirectory()))
            scheme, logged = short_run(train, stolen, device=device, seed=seed)
            control, values = replace(control, target=round(control.target * logged, 4)), {"stolen": stolen}
        else:
            scheme = control.make_scheme(seed)
        if control.threat == "recipe":
            seen = knowledge.ciphertext(scheme, train, **options)
            recipe = {"preset": "smoke"} if preset == "smoke" else {"epochs": CLOUD_EPOCHS}
            cloud = None if conditions.folder is None else conditions.folder / "cloud"
            classifier = Cloud(folder=cloud, device=device, seed=seed, **recipe).open(seen, train.classes)
            known = knowledge.recipe(scheme, train, classifier=classifier, public={}, **options)
        else:
            known = build_knowledge(control.threat, scheme, train, pairs=control.pairs, **options)
        # Floors say how far a scheme is from blind guesses; a control asks only whether the attack works.
        attack = make_attack(control.attack, values, preset=preset)
        found, judged = attack_and_judge(
            attack, scheme, known, test, floor={}, preset=preset, conditions=conditions, seed=seed
        )
    if picture is not None:
        draw_attack(picture, scheme, test, judged)
    target: dict[str, Any] = {control.metric: control.target}
    if control.tolerance is not None:
        target["tolerance"] = control.tolerance
    if control.at_most:
        target["at_most"] = True
    value = found["metrics"][control.metric]
    return found | {"task": "control", "target": target, "passed": control.passed(value), "floors": None}


def run_controls(
    data: str,
    out: Path,
    *,
    plain: str | None = None,
    only: Sequence[str] = (),
    test_images: int = 1000,
    preset: str = "quick",
    run: Path | None = None,
    device: Device | None = None,
    seed: int = 0,
) -> str:
    """Run all controls that fit the images, one record and one sheet a control, and say which passed.

    Args:
        data: images with the splits `train` and `test`. Those of at most 64 pixels serve all controls but the jigsaw's,
            larger ones serve that.
        out: folder for the records, and a sheet of the same name for each attack that reconstructs.
        plain: unpaired plain images of another source.
        only: names of attacks, or `attack:scheme`; empty runs all.
        test_images: judge on so many test images, from the first on.
        preset: budget of the attacks that train.
        run: directory for their training, one folder a data set and control, to be continued by the same call.
        device: where they train; None for the processor.
        seed: decides every key and random choice.

    Returns:
        One line a control.

    Raises:
        UsageError: the images are missing, no control fits, or one is held against an attack that was not run.
        RunError: a file cannot be written.
    """
    # The checkout may move on while this runs.
    commit()
    train, test = train_and_test(data, seed)
    test = judged(test, test_images)
    other = None if plain is None else load_arrays(plain, "train")
    pieces = min(train.images.shape[-2:]) > 64
    chosen = [
        row
        for row in CONTROLS
        if row.pieces == pieces and (not only or {row.attack, f"{row.attack}:{row.scheme}"} & set(only))
    ]
    for name in only:
        if not any(name in (row.attack, f"{row.attack}:{row.scheme}") for row in CONTROLS):
            raise UsageError(f"--only {name}: the table of controls has no such attack, or not on that scheme")
    if not chosen:
        raise UsageError(f"no control of {', '.join(only) or 'any attack'} is for images of the size of {data}")
    lines = []
    for row in sorted(chosen, key=lambda row: row.peer is not None):
        # Only now, after the peers have run.
        control = row.measured_by_peer(read_records(out), data=test.name, preset=preset)
        conditions = Conditions()
        if run is not None:
            own = run / test.name
            conditions = Conditions(folder=own / control.name, trained=trained_before(control, own))
        if device is not None:
            conditions = replace(conditions, device=device)
        path = out / f"{control.name}-{test.name}.json"
        picture = path.with_suffix(".png")
        found = run_control(
            control, train, test, plain=other, preset=preset, conditions=conditions, picture=picture, seed=seed
        )
        write_json(path, found)
        lines.append(describe_control(found))
        print(lines[-1], flush=True)
    missed = sum(line.startswith("MISSED") for line in lines)
    return f"{len(lines) - missed} of {len(lines)} controls passed"


def describe_control(found: dict[str, Any]) -> str:
    """One control's record as a line."""
    metric, target = next(iter(found["target"].items()))
    verdict = "passed" if found["passed"] else "MISSED"
    below = "below " if "at_most" in found["target"] else ""
    return (
        f"{verdict} {found['attack']} on {found['scheme']}, {found['data']}, {found['threat']}: "
        f"{metric} {found['metrics'][metric]:.4f}, target {below}{target}, {found['seconds']} s"
    )


def controls_table(folder: Path) -> str:
    """The records of controls in a folder as a Markdown table.

    Raises:
        UsageError: there are none.
    """
    found_there = [one for one in read_records(folder) if isinstance(one, dict) and one.get("task") == "control"]
    if not found_there:
        raise UsageError(f"{folder} holds no record of a control; make them with: {command(out=str(folder))}")
    rows = [
        "| attack | scheme | data | threat | figure | target | measured | passed | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in found_there:
        metric, target = next(iter(found["target"].items()))
        below = "< " if "at_most" in found["target"] else ""
        margin = f" ± {found['target']['tolerance']}" if "tolerance" in found["target"] else ""
        cells = (found["attack"], found["scheme"], found["data"], found["threat"], metric, f"{below}{target}{margin}")
        measured = (
            f"{found['metrics'][metric]:.4f}",
            "yes" if found["passed"] else "**no**",
            f"{found['seconds']:.1f}",
        )
        rows.append(f"| {' | '.join((*cells, *measured))} |")
    missed = [f"`{one['attack']}` on `{one['scheme']}`" for one in found_there if not one["passed"]]
    there = {(one["attack"], one["scheme"], next(iter(one["target"]))) for one in found_there}
    unrecorded = [
        f"`{row.attack}` on `{row.scheme}`" for row in CONTROLS if (row.attack, row.scheme, row.metric) not in there
    ]
    rows += ["", f"Missed: {', '.join(missed) or 'none'}. Not recorded: {', '.join(unrecorded) or 'none'}."]
    return "\n".join(rows)
