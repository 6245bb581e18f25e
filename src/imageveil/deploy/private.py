"""What only the owner may see, in the folder `<destination>.private` beside the protected images.

`names*.csv` says which image became which and how large it was, `names.key` decides hidden names, and `key.json` says
which key the images are protected with, without the key.
"""

import csv
import io
import json
import secrets
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from imageveil.deploy.journal import Outcome, begun_with_key, settling
from imageveil.deploy.plan import Unit
from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import cannot_write, remove, write_files
from imageveil.schemes.base import Scheme
from imageveil.schemes.keyed import KeyedScheme

UNKNOWN = "?"
NOTE = "key.json"
csv.field_size_limit(2**31 - 1)  # names come from Parquet files of others, too, and may be of any length


class Row(NamedTuple):
    """A row of a table of names, as text.

    Attributes:
        protected: path of the protected image, relative to its folder.
        source: the id under which it was protected.
        height: of the plain image, where it was padded; else "", and `UNKNOWN` while the image is not yet protected.
        width: likewise.
    """

    protected: str
    source: str
    height: str = ""
    width: str = ""


def private_folder(destination: Path) -> Path:
    """The folder beside a folder of protected images."""
    return destination.with_name(destination.name + ".private")


def names_key(destination: Path, *, overwrite: bool = False) -> bytes:
    """Read the key of hidden names, or draw a new one and keep it, readable by its owner only.

    Args:
        destination: the folder of protected images; the key lies beside it.
        overwrite: draw a new one also where images with names by another one are.

    Raises:
        RunError: it cannot be read or written.
        UsageError: the file is no key, or it is gone and images with names by it are there.
    """
    path = private_folder(destination) / "names.key"
    with settling(destination):  # shards that begin at the same moment use the key of the first
        try:
            if not path.exists():
                if not overwrite and begun_with_key(destination):
                    raise UsageError(
                        f"{destination} was begun, and the key of its names {path} is gone; put it back, or use "
                        "--overwrite or another destination"
                    )
                _write_private(path, secrets.token_bytes(32).hex().encode() + b"\n")
            key = bytes.fromhex(path.read_text().strip())
        except UsageError:
            raise
        except ValueError:
            key = b""
        except OSError as error:
            raise RunError(f"cannot use the key of the names {path}: {error.strerror}") from error
    if len(key) != 32:
        raise UsageError(f"{path} is not a key of 64 hexadecimal digits; restore it from a copy")
    return key


def write_key_note(destination: Path, scheme: Scheme, *, tag: str = "") -> None:
    """Write down which key a folder of images is protected with, or delete the note where the scheme has none.

    Raises:
        RunError: the note could not be written.
    """
    path = private_folder(destination) / NOTE
    if isinstance(scheme, KeyedScheme):
        note = {"scheme": scheme.name, "fingerprint": scheme.fingerprint}
        _write_private(path, json.dumps(note).encode() + b"\n", tag=tag)
    else:
        remove(path)


def read_key_note(folder: Path) -> tuple[str, str] | None:
    """Scheme and fingerprint from the note in a private folder; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_bytes())
        return note["scheme"], note["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged; restore or delete it") from error


def write_names(
    destination: Path, units: Iterable[Unit], *, tag: str, done: Mapping[str, Outcome], planned: Container[str]
) -> None:
    """Write the table of a shard. It is right at every moment: a size is there once its image is.

    Images that are still there keep their rows when their source is gone.

    Args:
        destination: the folder of protected images.
        units: what this shard protects.
        tag: which shard this is.
        done: outcomes of finished units by digest.
        planned: what all shards write; what is not among it is of sources that are gone.

    Raises:
        UsageError: a table is there and damaged.
        RunError: the table cannot be written.
    """
    path = table_path(destination, tag)
    old = {row.protected: row for row in (read_table(path) if path.is_file() else ())}
    rows: dict[str, Row] = {}
    for unit in units:
        outcome = done.get(unit.digest)
        for output, item in zip(unit.outputs, unit.items, strict=True):
            before = old.get(output)
            if outcome is not None:
                width, height = map(str, outcome.sizes.get(output, ("", "")))
            elif before is not None and before.source == item.key:
                height, width = before.height, before.width
            else:
                height, width = UNKNOWN, UNKNOWN
            rows[output] = Row(output, item.key, height, width)
    for output, row in old.items():
        if output not in rows and output not in planned and (destination / output).is_file():
            rows[output] = row
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a carriage return in a name is lost
    table.writerow(Row._fields)
    table.writerows(rows.values())
    _write_private(path, text.getvalue().encode(errors="surrogateescape"), tag=tag)


def read_table(path: Path) -> list[Row]:
    """Read a table of names; the columns `height` and `width` may be left out.

    Raises:
        UsageError: it is no such table.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for cells in csv.DictReader(file):
                row = Row(cells["protected"], cells["source"], cells.get("height") or "", cells.get("width") or "")
                numbers = {row.height, row.width}
                if None in row or not (numbers in ({""}, {UNKNOWN}) or all(n.isdecimal() for n in numbers)):
                    raise ValueError(row)
                rows.append(row)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is no table of protected and source names; restore it") from error
    return rows


def table_path(destination: Path, tag: str) -> Path:
    """Where the table of a shard lies."""
    return private_folder(destination) / ("names.csv" if tag == "1-of-1" else f"names-{tag}.csv")


def tables(folder: Path) -> list[Path]:
    """All tables in a private folder."""
    return sorted(folder.glob("names*.csv"))


def remove_tables(destination: Path, *, tag: str) -> None:
    """Delete the table of a shard, and those of runs with another number of shards."""
    for path in tables(private_folder(destination)):
        number = path.stem.rpartition("-of-")[2] if path.stem != "names" else "1"
        if path == table_path(destination, tag) or number != tag.rpartition("-of-")[2]:
            remove(path)


def _write_private(path: Path, blob: bytes, *, tag: str = "") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
    except OSError as error:
        raise cannot_write(path, error) from error
    write_files([(path, blob)], private=True, tag=tag)
