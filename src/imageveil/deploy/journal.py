"""The journal of a destination: which scheme and options it belongs to, and which units of work are done.

One JSON object a line, appended and synced; a line of settings makes everything before it undone. The lock on the
journal file goes with the process that holds it, however that process ends.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
        overwrite: start afresh, whatever was done here before.

    Attributes:
        begun: digests of the units whose outputs may be there.
        outputs: files that this journal's runs wrote or may have written, also before it was started afresh.
        done: outcomes of finished units by digest.
        afresh: whether it was started afresh and files of before may still be there (see `cleared`).

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
        self.afresh = False
        self.settings = ""
        try:
            destination.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._lock(self.file)
            self._settle(dict(settings), overwrite)
            self._read(overwrite)
            self._start(dict(settings), overwrite)
        except BaseException:
            self.file.close()
            raise

    def begin(self, digest: str, outputs: Sequence[str]) -> None:
        """Note that outputs of a unit may be there from now on."""
        if digest not in self.begun:
            self.begun.add(digest)
            self.outputs.update(outputs)
            # Sorted, so that hashed names do not tell the order of those they stand for.
            self._append({"begin": digest, "outputs": sorted(outputs)})

    def finish(self, digest: str, outcome: Outcome) -> None:
        """Note that a unit is done; its outputs are on disk."""
        self.done[digest] = outcome
        self._append({"done": digest, **asdict(outcome)})

    def cleared(self) -> None:
        """Note that no files of before the fresh start are left, except those that are to be written again."""
        self.afresh = False
        self._append({"cleared": True})

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _lock(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another run is writing {self.destination}; wait for it or use --shard") from error
        except OSError as error:
            raise RunError(f"{self.destination} is on a disk without file locks; use another destination") from error

    def _settle(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Write the settings on the first run; compare them on every later one."""
        path = self.destination / SETTINGS
        try:
            found = json.loads(path.read_text()) if path.exists() and not overwrite else None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read; start afresh with --overwrite or another destination") from error
        if found is not None and found != settings:
            names = [name for name in settings if settings[name] != found.get(name)] or sorted(found)
            raise UsageError(
                f"{self.destination} was begun with {_told(names, found, settings)}; use the same, another "
                "destination, or --overwrite"
            )
        if found != settings:
            write_files([(path, json.dumps(settings, indent=1).encode() + b"\n")], tag="settings")

    def _read(self, overwrite: bool) -> None:
        """Read the finished units; a last line that a kill cut short is dropped."""
        end = 0
        self.file.seek(0)
        for line in _whole_lines(self.file):
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                if not overwrite:
                    raise RunError(f"{self.path} is damaged; start afresh with --overwrite") from error
                end = 0  # `_start` writes what counts anew
                break
            end += len(line)
        try:
            self.file.truncate(end)
            self.file.seek(end)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _note(self, entry: dict[str, Any]) -> None:
        if "settings" in entry:
            self.settings, self.afresh = entry["settings"], entry["afresh"]
            self.begun.clear()
            self.done.clear()
        elif "cleared" in entry:
            self.afresh = False
        elif "begin" in entry:
            self.begun.add(entry["begin"])
            self.outputs.update(entry["outputs"])
        else:
            digest = entry.pop("done")
            self.done[digest] = Outcome(**entry)

    def _start(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """See that what stands here belongs to these settings: another shard may have been started afresh with them."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        empty = not (self.settings or self.begun or self.done)
        if not (empty or overwrite) and digest != self.settings:
            raise UsageError(
                f"{self.path.name} in {self.destination} belongs to another scheme or other options than the settings "
                "there; use --overwrite for this shard, too"
            )
        if empty or overwrite:
            fresh = {"settings": digest, "afresh": overwrite}
            self._note(dict(fresh))
            self._append(fresh)
            if overwrite:
                self.begin("outputs of before", sorted(self.outputs))
                self._adopt()

    def _adopt(self) -> None:
        """Take over what runs with another number of shards wrote, and delete their journals and reports."""
        own = self.path.stem.rpartition("-of-")[2]
        for path in sorted(self.destination.glob(".imageveil-journal-*-of-*.jsonl")):
            tag = path.stem.removeprefix(".imageveil-journal-")
            if tag.rpartition("-of-")[2] == own:
                continue
            outputs: set[str] = set()
            with path.open("r+b") as file:
                self._lock(file)
                for line in _whole_lines(file):
                    with suppress(ValueError):
                        outputs.update(json.loads(line).get("outputs", []))
                self.begin(f"outputs of {tag}", sorted(outputs))
                path.unlink()
            (self.destination / report_name(tag)).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def report_name(tag: str) -> str:
    """The file name of a shard's report."""
    return "protect-report.json" if tag == "1-of-1" else f"protect-report-{tag}.json"


def begun_with_key(destination: Path) -> bool:
    """Whether images lie in a destination under names that a key has decided."""
    try:
        return json.loads((destination / SETTINGS).read_text()).get("names_key") is not None
    except (OSError, ValueError, AttributeError):
        return False


def _whole_lines(file: IO[bytes]) -> list[bytes]:
    return [line for line in file.readlines() if line.endswith(b"\n")]


def _told(names: list[str], found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs, in words."""
    words = []
    for name in names[:3]:
        old, new = (str(values.get(name))[:12] for values in (found, settings))
        words.append(f"{name.replace('_', ' ')} {old} instead of {new}")
    return ", ".join(words)
