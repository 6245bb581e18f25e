"""The journal of a destination: which scheme and options it belongs to, and which units of work are done.

One JSON object a line, appended and synced. The lock on the journal file goes with the process that holds it, however
that process ends.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import cannot_write, write_files

SETTINGS = ".imageveil-settings.json"


@dataclass(kw_only=True)
class Outcome:
    """What became of a unit. Images go by the name that the report may show.

    Attributes:
        images: number of images protected.
        skipped: images that were left out, with the reason.
        notes: images of which something was left out, and what.
        sizes: true width and height of images that the scheme padded.
    """

    images: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: "Outcome") -> None:
        """Add what became of more images."""
        self.images += other.images
        self.skipped.update(other.skipped)
        self.notes.update(other.notes)
        self.sizes.update(other.sizes)


class Journal:
    """The open, locked journal of one destination and shard. Use as a context manager.

    Args:
        destination: the folder that is written; made if it is not there.
        settings: scheme and options; a journal with other ones is refused.
        tag: which shard this is, `i-of-n`.
        overwrite: start afresh instead of refusing.

    Attributes:
        begun: digests of the units whose outputs may be there.
        outputs: files that this journal's runs wrote or may have written.
        done: outcomes of finished units by digest.

    Raises:
        UsageError: another scheme or other options were used here.
        RunError: another run holds the destination, or it cannot be written.
    """

    def __init__(self, destination: Path, settings: Mapping[str, Any], *, tag: str, overwrite: bool = False) -> None:
        self.destination = destination
        self.path = destination / f".imageveil-journal-{tag}.jsonl"
        self.begun: set[str] = set()
        self.outputs: set[str] = set()
        self.done: dict[str, Outcome] = {}
        try:
            destination.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._lock()
            self._settle(dict(settings), overwrite)
            self._read()
        except BaseException:
            self.file.close()
            raise

    def begin(self, digest: str, outputs: Sequence[str]) -> None:
        """Note that outputs of a unit may be there from now on."""
        if digest not in self.begun:
            self.begun.add(digest)
            self.outputs.update(outputs)
            self._append({"begin": digest, "outputs": outputs})

    def finish(self, digest: str, outcome: Outcome) -> None:
        """Note that a unit is done; its outputs are on disk."""
        self.done[digest] = outcome
        self._append({"done": digest, **asdict(outcome)})

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another run is writing {self.destination}; wait for it or use --shard") from error
        except OSError as error:
            raise RunError(f"{self.destination} is on a disk without file locks; use another destination") from error

    def _settle(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Write the settings on the first run; compare them on every later one."""
        path = self.destination / SETTINGS
        try:
            found = json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read; start afresh with --overwrite or another destination") from error
        if found is not None and found != settings:
            if not overwrite:
                names = [name for name in settings if settings[name] != found.get(name)] or sorted(found)
                raise UsageError(
                    f"{self.destination} was begun with {_told(names, found, settings)}; use the same, another "
                    "destination, or --overwrite"
                )
            found = None
            self.file.truncate(0)
        if found is None:
            write_files([(path, json.dumps(settings, indent=1).encode() + b"\n")], tag="settings")

    def _read(self) -> None:
        """Read the finished units; a last line that a kill cut short is dropped."""
        end = 0
        self.file.seek(0)
        for line in _whole_lines(self.file):
            try:
                entry = json.loads(line)
                if "begin" in entry:
                    self.begun.add(entry["begin"])
                    self.outputs.update(entry["outputs"])
                else:
                    digest = entry.pop("done")
                    self.done[digest] = Outcome(**entry)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{self.path} is damaged; start afresh with --overwrite") from error
            end += len(line)
        try:
            self.file.truncate(end)
            self.file.seek(end)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _whole_lines(file: IO[bytes]) -> list[bytes]:
    return [line for line in file.readlines() if line.endswith(b"\n")]


def _told(names: list[str], found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs, in words."""
    words = []
    for name in names[:3]:
        old, new = (str(values.get(name))[:12] for values in (found, settings))
        words.append(f"{name.replace('_', ' ')} {old} instead of {new}")
    return ", ".join(words)
