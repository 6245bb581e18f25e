"""`imageveil protect`: a whole folder, Parquet set or named data set through a scheme, to be continued at any time."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageveil import __version__
from imageveil.deploy.engines import open_engine
from imageveil.deploy.journal import Journal, Outcome
from imageveil.deploy.listing import NAMED, Listing, list_source
from imageveil.deploy.pipeline import Pipeline
from imageveil.deploy.plan import (
    NAMES,
    Sizes,
    Unit,
    build_units,
    name_suffix,
    names_key,
    output_names,
    plan_digest,
    write_mapping,
)
from imageveil.deploy.reveal import write_key_note
from imageveil.deploy.tiles import Protector, Room
from imageveil.deploy.workers import Target, open_pool
from imageveil.errors import UsageError
from imageveil.images.sinks import SUFFIX, remove_temporaries, write_files
from imageveil.schemes import load_scheme
from imageveil.schemes.base import Scheme, digest
from imageveil.schemes.keyed import KeyedScheme
from imageveil.schemes.learned import LearnedScheme
from imageveil.training.loop import Progress

OUTPUTS = ("auto", "folder", "parquet")
FEW = 64  # images: starting worker processes would take longer


@dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """How a source is protected.

    Attributes:
        output: `folder`, `parquet`, or `auto` for the kind of the source (folder for a data set by name).
        format: `png`, `webp` (both lossless) or `jpeg`.
        quality: of JPEG.
        names: `keep`, `hash` or `index`.
        shard: `i/n`, the i-th of n equal shares of the source.
        split: see `list_source`.
        engine: see `open_engine`.
        device: see `open_engine`.
        precision: see `open_engine`.
        workers: processes that decode and encode; None for as many as there are processors, 0 for none.
        strict: stop at the first image that cannot be protected.
        overwrite: replace files that are there, and a run with another scheme or options.
        ray: spread the units with Ray Data instead of processes of this machine.
        quiet: show no progress.
        sizes: when a unit of work is full; None for the default.
        room: how much is computed at once; None for the default.
    """

    output: str = "auto"
    format: str = "png"
    quality: int = 95
    names: str = "keep"
    shard: str = "1/1"
    split: str | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    strict: bool = False
    overwrite: bool = False
    ray: bool = False
    quiet: bool = False
    sizes: Sizes | None = None
    room: Room | None = None

    @property
    def share(self) -> tuple[int, int]:
        """`shard` as two numbers.

        Raises:
            UsageError: it is not `i/n` with 1 <= i <= n.
        """
        first, _, last = self.shard.partition("/")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise UsageError(f"--shard {self.shard} is not i/n with i from 1 to n, for example 2/8")
        return int(first), int(last)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: names the option.
        """
        for option, value, known in (
            ("--output", self.output, OUTPUTS),
            ("--format", self.format, tuple(SUFFIX)),
            ("--names", self.names, NAMES),
        ):
            if value not in known:
                raise UsageError(f"{option} {value} is unknown; use one of: {', '.join(known)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality} is not from 1 to 100")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers} is negative; 0 works without processes")
        _ = self.share


@dataclass(kw_only=True)
class Summary:
    """What became of a source.

    Attributes:
        outcome: images protected and skipped, in total.
        other: files that are no images.
        report: the report file.
    """

    outcome: Outcome
    other: dict[str, str]
    report: Path

    @property
    def exit_code(self) -> int:
        """1 when any image was skipped."""
        return 1 if self.outcome.skipped else 0

    def lines(self) -> list[str]:
        """The summary in words."""
        lines = [f"{self.outcome.images} images protected, {len(self.outcome.skipped)} skipped"]
        lines += [f"skipped {name}: {reason}" for name, reason in list(self.outcome.skipped.items())[:10]]
        if len(self.outcome.skipped) > 10:
            lines.append(f"and {len(self.outcome.skipped) - 10} more")
        if self.other:
            lines.append(f"{len(self.other)} other files were left out")
        return [*lines, f"report: {self.report}"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A source, a scheme and a destination, checked and planned.

    Attributes:
        listing: the source.
        outputs: names in the destination, one an image.
        units: the units of this shard.
        scheme: the scheme's shipped name or the path of its file.
        protector: the scheme on its engine; None in the copy that goes to another machine.
        destination: the folder that is written.
        target: how workers write.
        settings: what a continued run must agree in.
        tag: which shard this is.
    """

    listing: Listing
    outputs: list[str]
    units: list[Unit]
    scheme: str
    protector: Protector | None
    destination: Path
    target: Target
    settings: dict[str, Any]
    tag: str


def protect_source(
    source: str,
    destination: str | os.PathLike[str],
    scheme: str,
    options: ProtectOptions,
    *,
    protector: Protector | None = None,
) -> Summary:
    """Protect all images of a source, or those that are still to do.

    Args:
        source: an image folder, Parquet, or `cifar10`, `cifar100`, `stl10`.
        destination: the folder for protected images.
        scheme: shipped name or scheme file.
        options: how.
        protector: the scheme on its engine, where it has been opened before; None opens it.

    Raises:
        UsageError: something asked for cannot work, or the destination belongs to another scheme or other options.
        RunError: the run failed; the same command continues.
    """
    work = plan_work(source, destination, scheme, options, protector=protector)
    with open_journal(work, options) as journal:
        units = [unit for unit in work.units if unit.digest not in journal.done]
        if units:
            _run(work, units, journal, options)
        return finish_report(work, journal)


def plan_work(
    source: str,
    destination: str | os.PathLike[str],
    scheme: str,
    options: ProtectOptions,
    *,
    protector: Protector | None = None,
) -> Work:
    """Check what was asked for and plan it; writes nothing but the key of hashed names.

    Raises:
        UsageError: something asked for cannot work.
    """
    options.check()
    target_folder = Path(destination).resolve()
    if source not in NAMED or Path(source).exists():
        check_apart(Path(source).resolve(), target_folder)
    if target_folder.exists() and not target_folder.is_dir():
        raise UsageError(f"{destination} is a file; give a folder for the protected images")
    opened = load_scheme(scheme)
    listing = list_source(source, split=options.split)
    protector = protector or open_protector(opened, options)
    parquet = options.output == "parquet" or (options.output == "auto" and listing.kind == "parquet")
    number, shards = options.share
    tag = f"{number}-of-{shards}"
    key = names_key(target_folder) if options.names == "hash" else b""
    outputs = output_names(listing, options.names, suffix=name_suffix(options.format), key=key)
    units = build_units(listing, outputs, parquet=parquet, show_source=options.names == "keep", sizes=options.sizes)
    settings = {
        "kind": opened.name,
        "scheme": digest(opened.state()[0]),
        "engine": protector.name,
        "output": "parquet" if parquet else "folder",
        "format": options.format + (f"-{options.quality}" if options.format == "jpeg" else ""),
        "names": options.names,
        "shards": shards,
        "split": options.split,
        # Names and shards that count the images fit one state of the source only.
        "source": plan_digest(units) if parquet or options.names == "index" else None,
    }
    return Work(
        listing=listing,
        outputs=outputs,
        units=units[number - 1 :: shards],
        scheme=str(Path(scheme).resolve()) if Path(scheme).is_file() and not opened.public else scheme,
        protector=protector,
        destination=target_folder,
        target=Target(folder=None if parquet else target_folder, kind=options.format, quality=options.quality, tag=tag),
        settings=settings,
        tag=tag,
    )


def open_protector(scheme: Scheme, options: ProtectOptions) -> Protector:
    """Put a scheme on its engine, if it is a network and nothing but a network."""
    engine = None
    if isinstance(scheme, LearnedScheme) and type(scheme).protect is LearnedScheme.protect:
        engine = open_engine(scheme.network, options.engine, device=options.device, precision=options.precision)
    return Protector(scheme, engine, room=options.room)


def check_apart(source: Path, destination: Path) -> None:
    """Refuse a destination inside the source and the reverse.

    Raises:
        UsageError: one contains the other.
    """
    folder = source.parent if source.is_file() else source
    if folder == destination or folder in destination.parents or destination in folder.parents:
        raise UsageError(
            f"source {source} and destination {destination} contain one another; give folders that lie apart"
        )


def open_journal(work: Work, options: ProtectOptions) -> Journal:
    """Lock the destination, and refuse to replace files that no earlier run of this kind wrote.

    Raises:
        UsageError: such a file is there, or another scheme or other options were used.
        RunError: another run holds the destination, or it cannot be written.
    """
    journal = Journal(work.destination, work.settings, tag=work.tag, overwrite=options.overwrite)
    try:
        remove_temporaries(work.destination, tag=work.tag)
        if not options.overwrite:
            _refuse_foreign(work, journal)
        if options.names != "keep":
            write_mapping(work.destination, work.listing, work.outputs, tag=work.tag)
    except BaseException:
        journal.file.close()
        raise
    return journal


def _refuse_foreign(work: Work, journal: Journal) -> None:
    for unit in work.units:
        if unit.digest in journal.begun:
            continue
        for output in unit.files:
            if output not in journal.outputs and (work.destination / output).exists():
                raise UsageError(
                    f"{work.destination / output} is already there; use --overwrite or another destination"
                )


def _run(work: Work, units: Sequence[Unit], journal: Journal, options: ProtectOptions) -> None:
    images = sum(len(unit.items) for unit in units)
    workers = options.workers
    if workers is None:
        workers = 0 if images < FEW else os.cpu_count() or 1
    progress = Progress("protect", images, quiet=options.quiet)
    done = 0

    def begin(unit: Unit) -> None:
        journal.begin(unit.digest, unit.files)

    def finish(unit: Unit, outcome: Outcome) -> None:
        nonlocal done
        journal.finish(unit.digest, outcome)
        done += len(unit.items)
        progress.update(done, 1, {})

    if options.ray:
        from imageveil.deploy.ray import run_units

        run_units(work, units, options, begin=begin, finish=finish)
        return
    assert work.protector is not None
    pool = open_pool(workers)
    try:
        pipeline = Pipeline(
            work.listing,
            work.protector,
            work.target,
            work.destination,
            pool=pool,
            depth=workers + 1,
            strict=options.strict,
        )
        pipeline.run(units, begin=begin, finish=finish)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def finish_report(work: Work, journal: Journal) -> Summary:
    """Write the report of a finished run; it holds no time, so that equal runs give equal reports.

    Raises:
        RunError: it cannot be written.
    """
    total = Outcome()
    for unit in work.units:
        total.add(journal.done[unit.digest])
    scheme = work.protector.scheme if work.protector is not None else None
    if isinstance(scheme, KeyedScheme):
        # What the owner needs to undo it: ids, true sizes, and which key it was.
        write_mapping(work.destination, work.listing, work.outputs, tag=work.tag, sizes=total.sizes)
        write_key_note(work.destination, scheme)
    kept = work.settings["names"] == "keep"
    folders = work.listing.unreadable
    if not kept:
        folders = {f"folder {number}": reason for number, reason in enumerate(folders.values(), 1)}
    total.skipped = dict(sorted({**total.skipped, **folders}.items()))
    report = {
        "imageveil": __version__,
        "scheme": {"name": work.settings["kind"], "sha256": work.settings["scheme"]},
        "engine": work.settings["engine"],
        "shard": work.tag.replace("-of-", "/"),
        "images": total.images,
        "skipped": total.skipped,
        "notes": dict(sorted(total.notes.items())),
        "true_sizes": dict(sorted(total.sizes.items())),
        # Names that were to be hidden are not given away by the report.
        "other_files": dict(sorted(work.listing.other.items())) if kept else len(work.listing.other),
    }
    name = "protect-report.json" if work.tag == "1-of-1" else f"protect-report-{work.tag}.json"
    path = work.destination / name
    write_files([(path, json.dumps(report, indent=1).encode() + b"\n")], tag=work.tag)
    return Summary(outcome=total, other=work.listing.other, report=path)
