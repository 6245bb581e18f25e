"""What was asked for, checked and planned: a source, a scheme on its engine, and a destination. Writes nothing."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageveil.deploy.engines import open_engine
from imageveil.deploy.journal import VERSION
from imageveil.deploy.listing import Listing, list_source
from imageveil.deploy.naming import output_names
from imageveil.deploy.options import ProtectOptions
from imageveil.deploy.plan import Unit, build_units, in_hidden_order, plan_digest, unit_sizes
from imageveil.deploy.private import names_key
from imageveil.deploy.tiles import Protector
from imageveil.deploy.workers import Target
from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import SUFFIX
from imageveil.images.sources import NAMED
from imageveil.schemes import load_scheme
from imageveil.schemes.base import Scheme, digest
from imageveil.schemes.learned import LearnedScheme


@dataclass(frozen=True, kw_only=True)
class Work:
    """A source, a scheme and a destination, checked and planned.

    Attributes:
        listing: the source.
        units: the units of this shard.
        files: what all shards together write, relative to the destination, each with the identity of its image.
        scheme: the scheme's shipped name or the path of its file.
        protector: the scheme on its engine; None in the copy that goes to another machine.
        destination: the folder that is written.
        target: how workers write.
        settings: what a continued run must agree in.
        tag: which shard this is.
    """

    listing: Listing
    units: list[Unit]
    files: Mapping[str, str]
    scheme: str
    protector: Protector | None
    destination: Path
    target: Target
    settings: dict[str, Any]
    tag: str


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
        RunError: with `strict`, a folder or row group of the source cannot be read.
    """
    options.check()
    target_folder = Path(destination).resolve()
    if source not in NAMED or Path(source).exists():
        check_apart(Path(source).resolve(), target_folder)
    if target_folder.exists() and not target_folder.is_dir():
        raise UsageError(f"{destination} is a file; give a folder for the protected images")
    opened = load_scheme(scheme)
    listing = list_source(source, split=options.split)
    if options.strict and listing.unreadable:
        place, reason = next(iter(listing.unreadable.items()))
        raise RunError(f"{place if options.names == 'keep' else 'a folder'}: {reason} (stopped by --strict)")
    protector = protector or open_protector(opened, options)
    parquet = options.output == "parquet" or (options.output == "auto" and listing.kind == "parquet")
    number, shards = options.share
    tag = f"{number}-of-{shards}"
    key = b"" if options.names == "keep" else names_key(target_folder, overwrite=options.overwrite)
    outputs = output_names(listing, options.names, suffix=SUFFIX[options.format], key=key)
    named = list(zip(listing.items, outputs, strict=True))
    if options.names == "hash":
        named = in_hidden_order(named)
    sizes = options.sizes or unit_sizes(listing.items, parquet=parquet, shards=shards)
    units = build_units(named, parquet=parquet, sizes=sizes, show_source=options.names == "keep", key=key)
    settings = {
        "journal_version": VERSION,
        "kind": opened.name,
        "scheme": digest(opened.state()[0]),
        "engine": protector.name,
        "output": "parquet" if parquet else "folder",
        "format": options.format + (f"-{options.quality}" if options.format == "jpeg" else ""),
        "names": options.names,
        "names_key": hashlib.sha256(key).hexdigest() if key else None,
        "shards": shards,
        "split": options.split,
        # Names and shards that count the images fit one state of the source only.
        "source": plan_digest(named, key) if parquet or options.names == "index" else None,
    }
    return Work(
        listing=listing,
        units=units[number - 1 :: shards],
        files={file: identity for unit in units for file, identity in unit.files.items()},
        scheme=str(Path(scheme).resolve()) if Path(scheme).is_file() and not opened.public else scheme,
        protector=protector,
        destination=target_folder,
        target=Target(folder=None if parquet else target_folder, kind=options.format, quality=options.quality, tag=tag),
        settings=settings,
        tag=tag,
    )


def open_protector(scheme: Scheme, options: ProtectOptions) -> Protector:
    """Put a scheme on its engine, if it is a network and nothing but a network.

    Raises:
        UsageError: an engine, device or precision was asked for that is not there or that the scheme has no use for.
    """
    engine = None
    if isinstance(scheme, LearnedScheme) and type(scheme).protect is LearnedScheme.protect:
        engine = open_engine(scheme.network, options.engine, device=options.device, precision=options.precision)
    elif {options.engine, options.device, options.precision} != {"auto"}:
        raise UsageError(f"--engine, --device and --precision are for learned schemes, not for {scheme.name!r}")
    return Protector(scheme, engine, room=options.room)


def check_apart(source: Path, destination: Path) -> None:
    """Refuse a destination inside the source and the reverse.

    Raises:
        UsageError: one contains the other.
    """
    if source == destination or source in destination.parents or destination in source.parents:
        raise UsageError(
            f"source {source} and destination {destination} contain one another; give folders that lie apart"
        )
