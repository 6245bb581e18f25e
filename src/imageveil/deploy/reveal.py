"""The owner's way back: undo a keyed scheme on a folder of protected images.

Protected images hold pixels and nothing else, so what else is needed lies in a private folder, `<protected>.private`
beside them unless another one is named: tables of names (see `private`) with the ids and true sizes of the images, and
a note of the scheme and the fingerprint of its key, so that a wrong key is noticed; no pixel would tell.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from imageveil.deploy.naming import inner_parts
from imageveil.deploy.private import UNKNOWN, private_folder, read_key_note, read_table, tables
from imageveil.errors import UsageError
from imageveil.images.sinks import encode_for_disk, write_files
from imageveil.images.sources import ParquetSource, open_source
from imageveil.schemes import SCHEMES, Scheme, load_scheme
from imageveil.schemes.keyed import KeyedScheme
from imageveil.training.run_directory import writing


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a protected image came from.

    Attributes:
        identity: the id under which it was protected.
        size: height and width of the plain image where it was padded, else None.
        known: whether that was written down.
    """

    identity: str
    size: tuple[int, int] | None = None
    known: bool = True

    def true_size(self, height: int, width: int, block: int) -> tuple[int, int] | None:
        """Height and width of the plain image of a protected one; None where they are not on record."""
        if not self.known:
            return None
        size = self.size or (height, width)
        # A size of before the image was changed, where the run that protected it anew was interrupted, counts for none.
        padded = tuple(-(-side // block) * block for side in size)
        return size if padded == (height, width) else None


@dataclass(kw_only=True)
class Revealed:
    """What came of it.

    Attributes:
        count: images written.
        padded: images whose true size is not on record and which may therefore end in repeated rows and columns.
        lossy: images that are JPEG, so that what is revealed is near the plain image and not equal to it.
        checked: whether the key was compared with a note.
        skipped: files that were left out, with the reason.
    """

    count: int = 0
    padded: int = 0
    lossy: int = 0
    checked: bool = True
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Sentences for the owner."""
        lines = [f"{self.count} images revealed"]
        if not self.checked:
            lines.append("whether this is their key could not be checked: the note key.json is not there; look at them")
        if self.padded:
            lines.append(f"{self.padded} of them may still be padded to whole blocks: their true size is not on record")
        if self.lossy:
            lines.append(f"{self.lossy} of them are not exact: they were protected with --format jpeg")
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


def read_origins(folder: Path) -> dict[str, Origin]:
    """Read the tables in a private folder; empty where there are none.

    Raises:
        UsageError: a table lacks a column or holds no numbers where sizes should be.
    """
    origins: dict[str, Origin] = {}
    for path in tables(folder):
        for row in read_table(path):
            known = row.height != UNKNOWN
            size = (int(row.height), int(row.width)) if known and row.height else None
            origins[row.protected] = Origin(identity=row.source, size=size, known=known)
    return origins


def find_private(protected: Path) -> tuple[Path, str]:
    """Find the private folder of protected images, or of a folder above that was protected as a whole.

    Returns:
        The private folder, which need not be there, and what its paths of these images begin with.
    """
    for folder in (protected, *protected.parents[:-1]):
        private = private_folder(folder)
        if read_key_note(private) is not None or tables(private):
            return private, "".join(f"{part}/" for part in protected.relative_to(folder).parts)
    return private_folder(protected), ""


def check_key(private: Path, scheme: KeyedScheme, key: str | os.PathLike[str]) -> bool:
    """Compare a key with the note in a private folder; False where there is none.

    Raises:
        UsageError: the images were protected with another key or another scheme.
    """
    note = read_key_note(private)
    if note is None:
        return False
    name, fingerprint = note
    if name != scheme.name:
        raise UsageError(f"{key} is a key of {scheme.name}, but by {private} the images are protected with {name}")
    if fingerprint != scheme.fingerprint:
        raise UsageError(f"{key} is not the {name} key of the images: its fingerprint differs from that in {private}")
    return True


def reveal_folder(
    key: str | os.PathLike[str],
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    private: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Revealed:
    """Undo a keyed scheme on every image of a folder, or of its Parquet shards; write PNG files under the same names.

    Args:
        key: the key file.
        source: the folder of protected images, or a folder in it.
        destination: the folder for the plain images; must not be the source.
        private: where ids, true sizes and the note of the key are, for images that were moved or copied; None looks
            beside the source and the folders above it. An image that does not stand there is left out under a scheme
            with a key per image.
        overwrite: replace files that are there, such as those of a call that was interrupted.

    Raises:
        UsageError: key, source or destination cannot be used, the images are known to be protected with another key,
            ids are needed and no table of them is found, an image does not fit the key, two images would get one name,
            or a file of an image's name is there.
        RunError: an image could not be written.
    """
    scheme = open_key(key)
    folder, target = Path(source).resolve(), Path(destination).resolve()
    if folder == target or folder in target.parents:
        raise UsageError(f"{destination} lies in the folder of the protected images; choose another destination")
    place, prefix = find_private(folder) if private is None else (Path(private), "")
    checked = check_key(place, scheme, key)
    origins = read_origins(place)
    if private is not None and not (checked or origins):
        raise UsageError(f"{private} holds neither names.csv nor key.json; give the folder that ends in .private")
    if scheme.needs_ids and not origins:
        raise UsageError(
            f"{scheme.name} has a key per image, and {place} with the table of names is not there; put it back or name "
            "it with --private"
        )
    images = open_source(str(folder))
    if isinstance(images, ParquetSource):
        prefix = ""  # paths in Parquet are whole
    report = Revealed(checked=checked, skipped=images.skipped.reasons)
    written: dict[Path, str] = {}
    for record in images:
        # Protected images come back from others: a path inside their Parquet must not lead out of the destination.
        path = target.joinpath(*inner_parts(record.key) or ["unnamed"]).with_suffix(".png")
        if path in written:
            raise UsageError(f"{written[path]} and {record.key} in {source} would both become {path}; rename one")
        written[path] = record.key
        origin = origins.get(prefix + record.key)
        if origin is None:
            if scheme.needs_ids:
                report.skipped[record.key] = "it stands in no table of names, so its key is not known"
                continue
            origin = Origin(identity="", known=False)
        if path.exists() and not overwrite:
            raise UsageError(f"{path} is already there; use --overwrite or another destination")
        pixels = torch.from_numpy(np.asarray(record.image).transpose(2, 0, 1).copy())
        size = origin.true_size(pixels.shape[1], pixels.shape[2], scheme.block)
        try:
            plain = scheme.reveal(pixels[None], size, [origin.identity])[0]
        except UsageError as error:
            raise UsageError(f"{record.key}: {error}") from error
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Plain images are for their owner only.
        write_files([(path, encode_for_disk(plain.permute(1, 2, 0).numpy(), "png"))], private=True)
        report.count += 1
        report.lossy += record.key.lower().endswith((".jpg", ".jpeg"))
        report.padded += scheme.block > 1 and size is None
    return report
