"""What every image is called in the destination: each name once, also where case is not told apart."""

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from imageveil.deploy.listing import Item, Listing

NAMES = ("keep", "hash", "index")
LONGEST_NAME = 200


def output_names(listing: Listing, names: str, *, suffix: str, key: bytes = b"") -> list[str]:
    """Name every image in the destination.

    Args:
        listing: the source.
        names: `keep` the path, `hash` (keyed), or `index` (position in the source); folders that are classes stay.
        suffix: ending of the new names.
        key: secret of `hash`.
    """
    if names == "keep":
        return _kept_names(listing, suffix)
    out = []
    for number, item in enumerate(listing.items):
        name = f"{number:07d}"
        if names == "hash":
            name = hmac.digest(key, os.fsencode(item.key), "sha256").hex()[:32]
        folder = "/".join(part for part in (item.split, _class_folder(item, listing)) if part)
        out.append(f"{folder}/{name}{suffix}" if folder else f"{name}{suffix}")
    return out


def inner_parts(path: str) -> list[str]:
    """The parts of a path that somebody else wrote, such as one inside a Parquet file.

    None leads out, and none is hidden, for hidden files are not read back.
    """
    parts = (part.lstrip(".") for part in PurePosixPath(path.replace("\0", "_")).parts)
    return [part for part in parts if part not in ("", "/", "//")]


def _kept_names(listing: Listing, suffix: str) -> list[str]:
    """The paths of the source with another ending; what would get one name, or that of a folder, gets a longer one.

    a.jpg and a.png side by side become a.jpg.png and a.png.png, and A.png and a.png get a part of their own hash. No
    name depends on the order of the images.
    """
    kept = [_kept(item, listing) for item in listing.items]
    lengths = [0] * len(kept)
    names = [_shortened(_without_suffix(name)) + suffix for name in kept]
    while shared := _shared(names):
        for place in shared:
            lengths[place] += 1
            stem = kept[place]
            if lengths[place] > 1:
                own = hashlib.sha256(os.fsencode(listing.items[place].key)).hexdigest()
                stem += "~" + own[: 8 * (lengths[place] - 1)]
            names[place] = _shortened(stem) + suffix
    return names


def _shared(names: Sequence[str]) -> list[int]:
    """Places of names that are there more than once, or are also the path of a folder of others."""
    folded = [name.casefold() for name in names]
    taken = _repeated(folded)
    folders = {name.rpartition("/")[0] for name in folded}
    while folders := folders - taken - {""}:
        taken |= folders
        folders = {folder.rpartition("/")[0] for folder in folders}
    return [place for place, name in enumerate(folded) if name in taken]


def _repeated(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for name in names:
        (twice if name in seen else seen).add(name)
    return twice


def _kept(item: Item, listing: Listing) -> str:
    """The path of an image below the destination, as the source has it."""
    if not item.file_of_rows:
        return item.key
    parts = inner_parts(item.key)
    folder = [part for part in (item.split, _class_folder(item, listing)) if part]
    return "/".join([*folder, *(parts[-1:] if folder else parts)]) or f"{item.row:07d}"


def _class_folder(item: Item, listing: Listing) -> str:
    if listing.classes is None or item.label is None or not 0 <= item.label < len(listing.classes):
        return "" if item.label is None else f"{item.label}"
    name = listing.classes[item.label].replace("/", "_").replace("\0", "_")
    return "_" + name.lstrip(".") if name[:1] in ("", ".") else name


def _without_suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if suffix.isalnum() and stem and stem[-1] not in "/.":
        return stem  # nearly every name; a path object takes longer than the rest of the plan
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


def _shortened(stem: str) -> str:
    """The path with a last part that leaves room for an ending."""
    if len(os.fsencode(stem)) <= LONGEST_NAME:
        return stem
    path = PurePosixPath(stem)
    raw = os.fsencode(path.name)
    if len(raw) <= LONGEST_NAME:
        return stem
    short = raw[: LONGEST_NAME - 17].decode(errors="ignore") + "-" + hashlib.sha256(raw).hexdigest()[:16]
    return str(path.with_name(short))
