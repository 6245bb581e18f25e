"""The owner's way back: undo a keyed scheme on a folder of protected images.

Protected images hold pixels and nothing else, so what else is needed lies in the folder `<protected>.private` beside
them: tables `names*.csv` with the columns `protected` (path of a protected image) and `source` (the id under which it
was protected) and, where images were padded to whole blocks, `height` and `width` of the plain image. A `key.json`
there names the scheme and the fingerprint of its key, so that a wrong key is noticed; no pixel would tell.
"""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imageveil.deploy.plan import inner_parts, private_folder
from imageveil.errors import RunError, UsageError
from imageveil.images.sources import open_source
from imageveil.schemes import SCHEMES, Scheme, load_scheme
from imageveil.schemes.keyed import KeyedScheme


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a protected image came from.

    Attributes:
        identity: the id under which it was protected.
        size: height and width of the plain image, or None where they were not written down.
    """

    identity: str
    size: tuple[int, int] | None = None


@dataclass(kw_only=True)
class Revealed:
    """What came of it.

    Attributes:
        count: images written.
        padded: images that stand in no table and may therefore end in repeated rows and columns.
        skipped: files that were left out, with the reason.
    """

    count: int = 0
    padded: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Sentences for the owner."""
        lines = [f"{self.count} images revealed"]
        if self.padded:
            lines.append(f"{self.padded} of them may still be padded to whole blocks: their true size is not on record")
        lines += [f"skipped {key}: {reason}" for key, reason in self.skipped.items()]
        return "\n".join(lines)


def open_key(path: str | os.PathLike[str]) -> KeyedScheme:
    """Open the file of a scheme that can be undone.

    Raises:
        UsageError: there is no such file, or its scheme cannot be undone.
    """
    if not Path(path).is_file():
        raise UsageError(f"there is no key file {path}; give the one that the images were protected with")
    scheme: Scheme = load_scheme(path)
    if not isinstance(scheme, KeyedScheme):
        able = ", ".join(sorted(name for name, kind in SCHEMES.items() if issubclass(kind, KeyedScheme)))
        raise UsageError(f"{path} holds the scheme {scheme.name!r}, which no key undoes; reveal works for: {able}")
    return scheme


def read_origins(protected: Path) -> dict[str, Origin]:
    """Read the tables beside a folder of protected images; empty where there are none.

    Raises:
        UsageError: a table lacks a column or holds no numbers where sizes should be.
    """
    origins: dict[str, Origin] = {}
    for table in sorted(private_folder(protected).glob("names*.csv")):
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                try:
                    size = (int(row["height"]), int(row["width"])) if row.get("height") else None
                    origins[row["protected"]] = Origin(identity=row["source"], size=size)
                except (KeyError, TypeError, ValueError) as error:
                    raise UsageError(f"{table} is no table of protected and source names; restore it") from error
    return origins


def write_key_note(protected: Path, scheme: KeyedScheme) -> None:
    """Write down which key a folder of images is protected with, without the key.

    Raises:
        RunError: the note could not be written.
    """
    path = private_folder(protected) / "key.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(json.dumps({"scheme": scheme.name, "fingerprint": scheme.fingerprint}) + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def check_key_note(protected: Path, scheme: KeyedScheme, key: str | os.PathLike[str]) -> None:
    """Compare a key with the note, if there is one.

    Raises:
        UsageError: the images were protected with another key or another scheme.
    """
    path = private_folder(protected) / "key.json"
    if not path.is_file():
        return
    try:
        note = json.loads(path.read_text())
        name, fingerprint = note["scheme"], note["fingerprint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged; restore or delete it") from error
    if name != scheme.name:
        raise UsageError(f"{key} is a key of {scheme.name}, but {protected} was protected with {name}")
    if fingerprint != scheme.fingerprint:
        raise UsageError(f"{key} is not the {name} key that {protected} was protected with: its fingerprint differs")


def reveal_folder(
    key: str | os.PathLike[str],
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Revealed:
    """Undo a keyed scheme on every image of a folder, or of its Parquet shards; write PNG files under the same names.

    Args:
        key: the key file.
        source: the folder of protected images; ids and true sizes are read from `<source>.private`. An image that
            does not stand there is taken to be protected under its own path where there is no table at all; else it is
            left out under a scheme with a key per image.
        destination: the folder for the plain images; must not be the source.
        overwrite: replace files that are there, such as those of a call that was interrupted.

    Raises:
        UsageError: key, source or destination cannot be used, the images are known to be protected with another key,
            an image does not fit the key, two images would get one name, or a file of an image's name is there.
        RunError: an image could not be written.
    """
    scheme = open_key(key)
    folder, target = Path(source).resolve(), Path(destination).resolve()
    if folder == target or folder in target.parents:
        raise UsageError(f"{destination} lies in the folder of the protected images; choose another destination")
    check_key_note(folder, scheme, key)
    images = open_source(str(folder))
    origins: Mapping[str, Origin] = read_origins(folder)
    report = Revealed(skipped=images.skipped.reasons)
    written: dict[Path, str] = {}
    for record in images:
        # Protected images come back from others: a path inside their Parquet must not lead out of the destination.
        path = target.joinpath(*inner_parts(record.key) or ["unnamed"]).with_suffix(".png")
        if path in written:
            raise UsageError(f"{written[path]} and {record.key} in {source} would both become {path}; rename one")
        written[path] = record.key
        if scheme.needs_ids and origins and record.key not in origins:
            report.skipped[record.key] = "it stands in no table of names, so its key is not known"
            continue
        if path.exists() and not overwrite:
            raise UsageError(f"{path} is already there; use --overwrite or another destination")
        origin = origins.get(record.key, Origin(identity=record.key))
        pixels = torch.from_numpy(np.asarray(record.image).transpose(2, 0, 1).copy())
        try:
            plain = scheme.reveal(pixels[None], origin.size, [origin.identity])[0]
        except UsageError as error:
            raise UsageError(f"{record.key}: {error}") from error
        _write_png(path, plain.permute(1, 2, 0).numpy())
        report.count += 1
        report.padded += scheme.block > 1 and record.key not in origins
    return report


def _write_png(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Write an image, complete or not at all, readable by its owner only as plain images should be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
