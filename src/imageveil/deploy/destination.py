"""What a destination holds when a run begins: whose it is, what stays, and what must be gone before anything is added.

Whatever earlier runs wrote and this one does not vouch for is deleted: no image may stay under another scheme.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from imageveil.deploy.journal import Journal, report_name, settling
from imageveil.deploy.private import private_folder, remove_tables, tables, write_key_note, write_names
from imageveil.deploy.work import Work
from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import remove, remove_temporaries, sync
from imageveil.schemes.keyed import KeyedScheme


def open_journal(work: Work, *, overwrite: bool) -> Journal:
    """Lock the destination, and bring it into a state that images can be added to.

    What the owner needs to undo the images is written down before the first of them is there.

    Raises:
        UsageError: files are there that no run of this kind wrote, or another scheme or other options were used.
        RunError: another run holds the destination, or it cannot be written.
    """
    with settling(work.destination):
        journal = Journal(work.destination, work.settings, tag=work.tag, overwrite=overwrite)
        try:
            if not overwrite:
                _refuse_foreign(work, journal)
            journal.start()
            _prepare(work, journal)
        except BaseException:
            journal.close()
            raise
    return journal


def write_table(work: Work, journal: Journal) -> None:
    """Write the table of names where the owner needs one: to undo the images, or to know which is which.

    Raises:
        UsageError: a table is there and damaged.
        RunError: it cannot be written.
    """
    assert work.protector is not None
    if work.settings["names"] == "keep" and not isinstance(work.protector.scheme, KeyedScheme):
        return
    write_names(work.destination, work.units, tag=work.tag, done=journal.state.done, planned=work.files)


def remove_outputs(destination: Path, outputs: Iterable[str]) -> None:
    """Delete files below a destination, and the folders that this leaves empty: their names tell something, too.

    Raises:
        RunError: one cannot be deleted.
    """
    folders: dict[Path, bool] = {}
    for output in outputs:
        path = destination / output
        folder = path.parent
        if folder not in folders:
            # The journal may have been elsewhere since: it must not lead out of the destination.
            folders[folder] = folder.resolve().is_relative_to(destination)
        if not folders[folder]:
            continue
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            continue  # something else has this name by now
        except OSError as error:
            raise RunError(f"cannot delete {path}, which an earlier run wrote: {error.strerror}") from error
    for folder in folders:
        with suppress(OSError):  # not there
            sync(folder)
    emptied = {parent for folder, inside in folders.items() if inside for parent in (folder, *folder.parents)}
    for folder in sorted(emptied, key=lambda folder: len(folder.parts), reverse=True):
        if folder != destination and folder.is_relative_to(destination):
            with suppress(OSError):
                folder.rmdir()


def _refuse_foreign(work: Work, journal: Journal) -> None:
    private = private_folder(work.destination)
    if not journal.state.settings and not journal.siblings and tables(private):
        raise UsageError(
            f"{private} tells how to undo images that are not in {work.destination} any more; move it away, or use "
            "--overwrite or another destination"
        )
    for unit in work.units:
        for output in unit.files:
            if output in journal.state.outputs or output in journal.claims:
                continue
            if os.path.lexists(f"{work.destination}/{output}"):
                raise UsageError(
                    f"{work.destination / output} is already there; use --overwrite or another destination"
                )


def _prepare(work: Work, journal: Journal) -> None:
    """Delete what must not stay, then write down key and names."""
    for folder in (work.destination, private_folder(work.destination)):
        remove_temporaries(folder, keep=journal.siblings)
    if journal.state.afresh:
        # What another share has written with these settings since is no longer of before.
        remove_outputs(work.destination, (output for output in journal.state.outputs if output not in journal.claims))
        remove_tables(work.destination, tag=work.tag)
        remove(work.destination / report_name(work.tag))
        journal.cleared()
    else:
        remove_outputs(work.destination, _superseded(work, journal))
    assert work.protector is not None
    write_key_note(work.destination, work.protector.scheme, tag=work.tag)
    write_table(work, journal)


def _superseded(work: Work, journal: Journal) -> list[str]:
    """What earlier runs wrote for images that are called otherwise now, or where others need a folder now."""
    images = {identity for identity in work.files.values() if identity}
    folders = {os.path.dirname(file) for file in work.files}  # noqa: PTH120 - a Path a file is slow
    folders |= {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    there = {**journal.claims, **journal.state.outputs}
    return [
        output
        for output, identity in there.items()
        if output not in work.files and (identity in images or output in folders)
    ]
