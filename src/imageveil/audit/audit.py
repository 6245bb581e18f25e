"""`imageveil audit`: every attack that applies, under every threat model, and what an owner may conclude.

The run directory holds `config.json` (what decides the results), `cells/<threat>-<attack>/` with `record.json`, image
sheets and, for an attack that trains, its own run directory; and `index.html`. The same command skips cells that have
a record and continues trained attacks where they were stopped.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imageveil.attacks import THREATS, Conditions
from imageveil.audit.audit_page import audit_page
from imageveil.audit.cells import (
    TRAINING,
    Cell,
    check_threats,
    left_out,
    pick,
    plan,
    trained_before,
)
from imageveil.audit.cloud import Cloud
from imageveil.audit.conclusion import conclude, verdict_lines
from imageveil.audit.control_state import ControlResult, load_controls, relevant, void_reason, without_labels
from imageveil.audit.protected_only import ProtectedOnly
from imageveil.audit.recognition import Recogniser
from imageveil.audit.recorded import check_algorithm, match
from imageveil.audit.report import write_page
from imageveil.audit.sheets import write_sheet
from imageveil.audit.similarity import mean_removed
from imageveil.audit.subjects import OwnersSubject, Pictures, Subject
from imageveil.audit.verdict import CONFIRMATION, Row, finding, judge_threat, outcome
from imageveil.errors import RunError, UsageError
from imageveil.images.arrays import deal_out, judged, load_arrays, train_and_test
from imageveil.records import commit, write_json
from imageveil.schemes import SCHEMES, load_scheme
from imageveil.training.device import Device, has_fast_bf16
from imageveil.training.identity import file_digest
from imageveil.training.run_directory import RunDirectory

COLUMNS = 4
UNJUDGED = "there are no plain images to judge it on"


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How an audit is run.

    Attributes:
        threats: threat models; empty takes all.
        attacks: attacks, `name` or `name:field=value`; empty takes all.
        cells: of what these give, only the cells of these names, as their folders are called; empty takes all.
        preset: budget of attacks that train.
        plain: unpaired plain images of another source.
        images: how many protected images the attacker has at most.
        pairs: numbers of pairs under the threat `pairs`.
        test_images: judge on so many test images, from the first on.
        classifier: the cloud's classifier, for the threat `recipe`.
        surrogate: for the threat `recipe`, schemes that the attacker has made by the same recipe.
        recogniser: a classifier of plain images of the judged kind.
        controls: folder of control records; None takes those recorded for the package.
        ceiling: for which attacks the same attack on plain images is run: `none`, `exact` or `all`.
        algorithm: for a folder of protected images, the published scheme.
        block: for a folder of protected images, pixels on a block's side.
        seed: decides every random choice.
        device: where attacks train.
    """

    threats: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    preset: str = "quick"
    plain: str | None = None
    images: int | None = None
    pairs: tuple[int, ...] = (100,)
    test_images: int = 1000
    classifier: Path | None = None
    surrogate: tuple[Path, ...] = ()
    recogniser: Path | None = None
    controls: Path | None = None
    ceiling: str = "exact"
    algorithm: str | None = None
    block: int | None = None
    seed: int = 0
    device: Device = field(default_factory=lambda: Device(torch=torch.device("cpu"), bf16=has_fast_bf16()))


def open_subject(target: str, data: str | None, options: AuditOptions) -> Subject:
    """Open what is audited: a scheme with its owner's images, or a folder of protected images with or without them.

    Raises:
        UsageError: something is missing or does not go together.
    """
    plain = None if options.plain is None else load_arrays(options.plain, "train")
    common: dict[str, Any] = {
        "plain": plain,
        "images": options.images,
        "ceiling": options.ceiling,
        "seed": options.seed,
    }
    if Path(target).is_dir():
        protected = load_arrays(target)
        algorithm = check_algorithm(options.algorithm)
        if data is None:
            judging = {
                "surrogate": bool(options.surrogate),
                "recogniser": options.recogniser is not None,
                "ceiling": options.ceiling not in ("none", AuditOptions.ceiling),
            }
            for name, given in judging.items():
                if given:
                    raise UsageError(
                        f"--{name} needs the plain images of the protected ones to be judged on: give --data"
                    )
            return ProtectedOnly(
                protected,
                plain=plain,
                images=options.images,
                algorithm=algorithm,
                block=options.block,
                seed=options.seed,
            )
        if options.algorithm is None:
            raise UsageError(
                f"say with --algorithm what {target} was protected by; one of: {', '.join(sorted(SCHEMES))}"
            )
        scheme, matched = match(protected, load_arrays(data), algorithm=algorithm, block=options.block)
        train, test = deal_out(matched, options.seed)
        lacking = f"{target} holds protected images only, so that no other image can be protected"
        common["impossible"] = {"oracle": lacking, "gradients": lacking}
        opened: Any = scheme
    else:
        if options.algorithm is not None or options.block is not None:
            raise UsageError("--algorithm and --block are for folders of protected images; a scheme file says both")
        opened = load_scheme(target).to(options.device.torch)
        if data is None:
            raise UsageError("auditing a scheme needs images to attack and judge: give --data")
        train, test = train_and_test(data, options.seed)
    test = judged(test, options.test_images)
    if options.recogniser is not None:
        common["recogniser"] = Recogniser.open(options.recogniser, test, opened, options.device)
    return OwnersSubject(opened, train, test, surrogate=options.surrogate, **common)


def run_audit(target: str | None, data: str | None, out: Path, options: AuditOptions | None = None) -> str:
    """Audit a scheme, or a folder of protected images; write `out/index.html`.

    Args:
        target: shipped name, scheme file or folder of protected images.
        data: the owner's plain images; for a folder of protected images those of the same names, or None.
        out: run directory; the same call continues there.
        options: how.

    Returns:
        The verdict as lines of text.

    Raises:
        UsageError: something that was named does not exist or does not go together, or `out` holds another audit.
        RunError: something cannot be written.
    """
    begun, options = time.monotonic(), options or AuditOptions()
    if min(options.pairs, default=1) < 1:
        raise UsageError(f"--pairs {min(options.pairs)} is no number of pairs; give 1 or more")
    if target is None:
        raise UsageError("say what to audit: a shipped name, a scheme file or a folder of protected images")
    commit()
    controls = load_controls(options.controls)
    subject = open_subject(target, data, options)
    planned = plan(
        subject.algorithm,
        threats=options.threats,
        attacks=options.attacks,
        pairs=options.pairs,
        preset=options.preset,
        recipe=subject.recipe,
    )
    cells = pick(planned, options.cells)
    everything = plan(
        subject.algorithm, threats=options.threats, pairs=options.pairs, preset=options.preset, recipe=subject.recipe
    )
    # Confirmation, in whichever variant, decides no verdict, and is missed in none.
    deciding = [cell for cell in everything if cell.attack != CONFIRMATION]
    identity = {**subject.identity, "preset": options.preset, "seed": options.seed, **given_networks(options)}
    RunDirectory(out, identity, options.device)
    rows = _viewers(subject, out)
    for number, cell in enumerate(cells):
        _progress(number, cells, cell, begun)
        trained = trained_before(cell, planned, out / "cells")
        rows.append(_row(cell, subject, out / "cells" / cell.name, controls, options, trained))
    threats = [one for one in check_threats(options.threats) if one not in subject.impossible]
    verdicts = [
        judge_threat(threat, rows, missing=left_out(threat, cells, deciding, preset=options.preset))
        for threat in threats
    ]
    sentence = conclude(subject.label, verdicts, preset=options.preset, images=subject.judged)
    speaking = list(
        dict.fromkeys(
            one for cell in cells for one in relevant(cell, subject.algorithm, controls, preset=options.preset)
        )
    )
    page = audit_page(subject, rows, verdicts, sentence, controls=speaking, folder=out / "cells", preset=options.preset)
    write_page(page, out / "index.html")
    _say(f"done in {(time.monotonic() - begun) / 60:.1f} min; the page shows plain images, so keep it to yourself")
    lines = verdict_lines(subject.label, subject.data, verdicts, sentence)
    lines += [f"{threat}: not tried: {reason}" for threat, reason in subject.impossible.items()]
    return "\n".join([*lines, f"open {out / 'index.html'}"])


def given_networks(options: AuditOptions) -> dict[str, str]:
    """SHA-256 of the files of networks that an audit was given, by option, so that others do not continue it.

    Raises:
        UsageError: a file cannot be read.
    """
    given = {name: getattr(options, name) for name in ("classifier", "recogniser")}
    found = {name: file_digest(path) for name, path in given.items() if path is not None}
    if options.surrogate:
        found["surrogate"] = " ".join(file_digest(path) for path in options.surrogate)
    return found


def _viewers(subject: Subject, out: Path) -> list[Row]:
    """What protected images show without an attack, as they are and less their mean; it never reassures.

    The mean is taken off because anyone who has many protected images can do so.
    """
    path = out / "viewer.json"
    found = json.loads(path.read_text()) if path.is_file() else subject.viewer()
    if found is None:
        return []
    write_json(path, found)
    ways = {"looking, without an attack": found, "looking, the mean image subtracted": mean_removed(found)}
    return [Row(title=title, threat=THREATS[0], record=seen, outcome=finding(seen)) for title, seen in ways.items()]


def _row(
    cell: Cell,
    subject: Subject,
    folder: Path,
    controls: Sequence[ControlResult],
    options: AuditOptions,
    trained: Mapping[str, Path],
) -> Row:
    """One cell: its stored record, or that of running it now."""
    common: dict[str, Any] = {
        "title": cell.title,
        "threat": cell.threat,
        "attack": cell.attack,
        "folder": folder.name,
    }
    path = folder / "record.json"
    if path.is_file():
        found = json.loads(path.read_text())
    elif cell.threat in subject.impossible:
        return Row(**common, record=None, outcome="not run", reason=subject.impossible[cell.threat])
    else:
        cloud = Cloud(
            classifier=options.classifier,
            folder=folder.parent.parent / "cloud",
            preset="smoke" if options.preset == "smoke" else "quick",
            device=options.device,
            seed=options.seed,
        )
        seed = options.seed + cell.repeat
        conditions = Conditions(seed=seed, device=options.device, folder=folder / TRAINING, trained=trained)
        try:
            attack = cell.make(options.preset)
            source = cloud if attack.needs_classifier else None
            known = subject.knowledge(cell.threat, pairs=cell.pairs, cloud=source)
            found, pictures = subject.put_to(attack, known, preset=options.preset, conditions=conditions)
        except (UsageError, RunError) as error:
            # One attack that cannot run, or diverges, leaves the others as they are; the page says so.
            _say(f"not run: {error}")
            return Row(**common, record=None, outcome="not run", reason=str(error))
        if pictures is not None:
            write_sheets(pictures, folder)
    void = void_reason(cell, subject.algorithm, controls, preset=options.preset) or without_labels(found)
    result = outcome(found, void)
    write_json(path, found | {"void": void is not None})
    reason = {"void": void or "", "unjudged": UNJUDGED}.get(result, "")
    return Row(**common, record=found | {"void": void is not None}, outcome=result, reason=reason)


def write_sheets(pictures: Pictures, folder: Path) -> None:
    """Write each choice of images as PNG files `<choice>-<what>.png`.

    Raises:
        RunError: a file cannot be written.
    """
    for choice, batches in pictures.choices.items():
        for what, images in batches.items():
            write_sheet(folder / f"{choice}-{what}.png", images, columns=COLUMNS)


def _progress(number: int, cells: Sequence[Cell], cell: Cell, begun: float) -> None:
    """Say which attack is next, and how long the rest takes if it goes on as before."""
    spent = time.monotonic() - begun
    left = f", about {spent / number * (len(cells) - number) / 60:.1f} min left" if number else ""
    _say(f"[{number + 1}/{len(cells)}{left}] {cell.threat}: {cell.title}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
