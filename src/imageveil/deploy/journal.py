"""The journal of a destination: which scheme and options it belongs to, and which units of work are done.

One JSON object a line, appended and synced; a line of settings makes everything before it undone. The lock on the
journal file goes with the process that holds it, however that process ends. Runs with the same settings and another
share of the source have journals of their own beside it.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import cannot_write, remove, write_files, write_whole

SETTINGS = ".imageveil-settings.json"
LOCK = ".imageveil-lock"
VERSION = 2  # of the journal; runs of another one are not continued


@dataclass(kw_only=True)
class Outcome:
    """What became of a unit. Images go by the name that the report may show.

    Attributes:
        images: number of images protected.
        skipped: images that were left out, with the reason.
        notes: images of which something was left out, and what.
        sizes: true width and height of images that the scheme padded.
        again: whether an image was left out for a reason that may pass.
    """

    images: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    again: bool = False

    def add(self, other: "Outcome") -> None:
        """Add what became of more images."""
        self.images += other.images
        self.skipped.update(other.skipped)
        self.notes.update(other.notes)
        self.sizes.update(other.sizes)
        self.again |= other.again


@dataclass(kw_only=True)
class State:
    """What the lines of a journal say.

    Attributes:
        settings: digest of the settings; "" before the first run.
        afresh: whether `outputs` are of before a fresh start, and still to be deleted.
        begun: digests of the units whose outputs may be there.
        outputs: files that runs wrote or may have written, each with the identity of its image.
        done: outcomes of finished units by digest.
        damaged: whether a line that counts cannot be read.
    """

    settings: str = ""
    afresh: bool = False
    begun: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)
    damaged: bool = False

    def read(self, lines: bytes) -> None:
        """Take lines in; a last one that a kill cut short does not count."""
        for line in lines.split(b"\n")[:-1]:
            try:
                self.note(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged = True

    def note(self, entry: dict[str, Any]) -> None:
        """Take one line in."""
        outputs = entry.get("outputs", {})
        # Journals of version 1 list outputs without identities; a fresh start has to find these, too.
        self.outputs.update(outputs if isinstance(outputs, dict) else dict.fromkeys(outputs, ""))
        if "settings" in entry:
            self.settings, self.afresh, self.damaged = entry["settings"], entry["afresh"], False
            self.begun.clear()
            self.done.clear()
        elif "begin" in entry:
            self.begun.add(entry["begin"])
        else:
            digest = entry.pop("done")
            self.done[digest] = Outcome(**entry)


@contextmanager
def settling(destination: Path) -> Iterator[None]:
    """Let one run at a time find out what a destination holds, and decide what becomes of it.

    Raises:
        RunError: the destination cannot be written.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        file = (destination / LOCK).open("ab")
    except OSError as error:
        raise cannot_write(destination / LOCK, error) from error
    with file:
        _lock(file, destination, wait=True)
        yield


class Journal:
    """The open, locked journal of one destination and shard. Use as a context manager, and open it while `settling`.

    Nothing but an empty file is written before `start`.

    Args:
        destination: the folder that is written.
        settings: scheme and options; a journal with other ones is refused.
        tag: which shard this is, `i-of-n`.
        overwrite: start afresh, whatever was done here before.

    Attributes:
        state: what this journal says.
        siblings: tags of the other shares with the same settings.
        claims: files, with identities, that these have written.

    Raises:
        UsageError: another scheme or other options were used here.
        RunError: another run holds the destination, or it cannot be written.
    """

    def __init__(self, destination: Path, settings: Mapping[str, Any], *, tag: str, overwrite: bool = False) -> None:
        self.destination, self.tag, self.overwrite = destination, tag, overwrite
        self.settings = dict(settings)
        self.digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        self.path = destination / f".imageveil-journal-{tag}.jsonl"
        self.state = State()
        self.siblings: list[str] = []
        self.claims: dict[str, str] = {}
        self.strangers: dict[Path, IO[bytes]] = {}
        # Not buffered: what a full disk refuses must not be tried once more when the file is closed.
        self.file = _open(self.path)
        try:
            _lock(self.file, destination)
            self._check_settings()
            lines = self.file.read()
            self.state.read(lines)
            self._check_state()
            self.whole = lines.rfind(b"\n") + 1
            self._look_beside()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Write down whose destination this is, and take over what runs with other settings left."""
        self._cut(self.whole)
        if self.overwrite or not self.state.settings:
            others = State()
            for file in self.strangers.values():
                file.seek(0)
                others.read(file.read())
            self._append({"settings": self.digest, "afresh": True, "outputs": others.outputs})
        path = self.destination / SETTINGS
        write_files([(path, json.dumps(self.settings, indent=1).encode() + b"\n")], tag=self.tag)
        for path, file in self.strangers.items():
            remove(path)
            remove(self.destination / report_name(tag_of(path)))
            file.close()
        self.strangers.clear()

    def begin(self, digest: str, outputs: Mapping[str, str]) -> None:
        """Note that outputs of a unit, with their identities, may be there from now on."""
        if digest not in self.state.begun:
            self._append({"begin": digest, "outputs": dict(outputs)})

    def finish(self, digest: str, outcome: Outcome) -> None:
        """Note that a unit is done; its outputs are on disk."""
        self._append({"done": digest, **asdict(outcome)})

    def cleared(self) -> None:
        """Note that no files of before the fresh start are left, and forget their names."""
        self._cut(0)
        self.state = State()
        self._append({"settings": self.digest, "afresh": False})

    def close(self) -> None:
        """Let other runs have the destination."""
        for file in (self.file, *self.strangers.values()):
            file.close()

    def _cut(self, size: int) -> None:
        try:
            self.file.truncate(size)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _append(self, line: dict[str, Any]) -> None:
        try:
            # Sorted, so that hashed names do not tell the order of those they stand for.
            write_whole(self.file, json.dumps(line, sort_keys=True).encode() + b"\n")
            os.fsync(self.file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.state.note(line)

    def _check_settings(self) -> None:
        """Compare the settings of the destination, if it has any."""
        path = self.destination / SETTINGS
        if self.overwrite or not path.exists():
            return
        try:
            found = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path} cannot be read; start afresh with --overwrite or another destination") from error
        if found != self.settings:
            raise UsageError(
                f"{self.destination} was begun with {_told(found, self.settings)}; use the same, another "
                "destination, or --overwrite"
            )

    def _check_state(self) -> None:
        if self.overwrite:
            return
        if self.state.damaged:
            raise RunError(f"{self.path} is damaged; start afresh with --overwrite")
        if self.state.settings not in ("", self.digest):
            raise UsageError(
                f"{self.path.name} in {self.destination} belongs to another scheme or other options than the settings "
                "there; use --overwrite"
            )

    def _look_beside(self) -> None:
        """Read the other journals: those with these settings claim files, those with other ones make way."""
        for path in sorted(self.destination.glob(".imageveil-journal-*-of-*.jsonl")):
            if path == self.path:
                continue
            file = _open(path)
            self.strangers[path] = file
            state = State()
            state.read(file.read())
            if state.settings == self.digest:
                self.siblings.append(tag_of(path))
                self.claims.update({} if state.afresh else state.outputs)
            elif self.overwrite:
                _lock(file, self.destination)
                continue
            self.strangers.pop(path).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def report_name(tag: str) -> str:
    """The file name of a shard's report."""
    return "protect-report.json" if tag == "1-of-1" else f"protect-report-{tag}.json"


def tag_of(path: Path) -> str:
    """Which shard a journal belongs to, `i-of-n`."""
    return path.stem.removeprefix(".imageveil-journal-")


def begun_with_key(destination: Path) -> bool:
    """Whether images lie in a destination under names that a key has decided."""
    try:
        return json.loads((destination / SETTINGS).read_text()).get("names_key") is not None
    except (OSError, ValueError, AttributeError):
        return False


def _open(path: Path) -> IO[bytes]:
    try:
        file = path.open("a+b", buffering=0)
        file.seek(0)
    except OSError as error:
        raise cannot_write(path, error) from error
    return file


def _lock(file: IO[bytes], destination: Path, *, wait: bool = False) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise RunError(f"another run is writing {destination}; wait for it or use --shard") from error
    except OSError as error:
        raise RunError(f"{destination} is on a disk without file locks; use another destination") from error


def _told(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs, in words."""
    names = [name for name in {**settings, **found} if settings.get(name) != found.get(name)]
    words = []
    for name in names[:3]:
        old, new = (str(values.get(name))[:12] for values in (found, settings))
        words.append(f"{name.replace('_', ' ')} {old} instead of {new}")
    return ", ".join(words)
