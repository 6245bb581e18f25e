"""`imageveil protect`: a whole folder, Parquet set or named data set through a scheme, to be continued at any time."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imageveil import __version__
from imageveil.deploy.destination import open_journal, remove_outputs, write_table
from imageveil.deploy.journal import Journal, Outcome, report_name
from imageveil.deploy.options import ProtectOptions
from imageveil.deploy.pipeline import Pipeline
from imageveil.deploy.plan import Unit
from imageveil.deploy.pool import open_pool
from imageveil.deploy.tiles import Protector
from imageveil.deploy.work import Work, open_protector, plan_work
from imageveil.images.sinks import write_files
from imageveil.training.loop import Progress

__all__ = ["ProtectOptions", "Summary", "open_protector", "protect_source"]

FEW, LITTLE = 64, 4 * 2**20  # images and bytes of their files: starting worker processes would take longer


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
    with open_journal(work, overwrite=options.overwrite) as journal:
        units = [unit for unit in work.units if not _is_done(unit, journal)]
        if units:
            _run(work, units, journal, options)
        return finish_report(work, journal)


def _is_done(unit: Unit, journal: Journal) -> bool:
    """Whether a unit was finished, has no image left out that may be had by now, and what it wrote is still there."""
    outcome = journal.state.done.get(unit.digest)
    if outcome is None or outcome.again:
        return False
    wanted = unit.written(outcome.skipped)
    return all(os.path.exists(f"{journal.destination}/{output}") for output in wanted)  # noqa: PTH110 - fast


def _run(work: Work, units: Sequence[Unit], journal: Journal, options: ProtectOptions) -> None:
    images = sum(len(unit.items) for unit in units)
    workers = options.workers
    if workers is None:
        little = images < FEW and sum(item.size for unit in units for item in unit.items) < LITTLE
        # Two more than processors, since some wait for the disk.
        workers = 0 if little or images == 1 else min(images, (os.cpu_count() or 1) + 2)
    progress = Progress("protect", images, quiet=options.quiet)
    done = 0

    def begin(unit: Unit) -> None:
        journal.begin(unit.digest, unit.files)

    def finish(unit: Unit, outcome: Outcome) -> None:
        nonlocal done
        written = set(unit.written(outcome.skipped))
        # What lies under the name of an image that was left out is of another time.
        remove_outputs(work.destination, (file for file in unit.files if file not in written))
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
        total.add(journal.state.done[unit.digest])
    write_table(work, journal)
    kept = work.settings["names"] == "keep"
    folders = work.listing.unreadable
    if not kept:
        folders = {f"place {number}": reason for number, reason in enumerate(folders.values(), 1)}
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
    path = work.destination / report_name(work.tag)
    write_files([(path, json.dumps(report, indent=1).encode() + b"\n")], tag=work.tag)
    return Summary(outcome=total, other=work.listing.other, report=path)
