"""The schemes as a list for people, and making a new one by name."""

import os

from imageveil.errors import UsageError
from imageveil.schemes.base import SCHEMES, Scheme
from imageveil.schemes.keyed import KeyedScheme

SAFE_BITS = 128
"""Key spaces below this can be searched, or will be."""


def scheme_lines(size: int = 32) -> list[str]:
    """One line a scheme.

    Each says: name, what the secret is, bits of the key for square images of `size` pixels with the default block
    size, whether the owner can undo it, what the cloud must change, and where it was published.
    """
    rows: list[tuple[str, ...]] = [("scheme", "secret", "key bits", "reversible", "the cloud must change", "published")]
    rows += [_row(name, SCHEMES[name], size) for name in sorted(SCHEMES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(name: str, kind: type[Scheme], size: int) -> tuple[str, ...]:
    bits = f"{kind(bytes(32)).key_bits(size, size):,.0f}" if issubclass(kind, KeyedScheme) else "-"
    return name, kind.kind, bits, "yes" if kind.reversible else "no", kind.cloud_change, kind.published


def generate_scheme(name: str, *, block: int | None = None) -> Scheme:
    """Make a scheme that needs no training, with a fresh key from the operating system's randomness.

    Args:
        name: the scheme's name.
        block: pixels on a block's side; None takes the scheme's default.

    Raises:
        UsageError: there is no such scheme, it has to be trained, or it has no such block size.
    """
    able = sorted(key for key, kind in SCHEMES.items() if hasattr(kind, "generate"))
    if name not in able:
        trained = " (that one is made by training)" if name in SCHEMES else ""
        if name == "class":
            trained = " (give it a classifier of plain images with --classifier)"
        raise UsageError(f"no key can be made for {name!r}{trained}; choose one of: {', '.join(able)}")
    kind = SCHEMES[name]
    if issubclass(kind, KeyedScheme):
        return kind.generate(block=block)
    if block is not None:
        raise UsageError(f"{name} has no blocks; leave --block out")
    scheme: Scheme = kind.generate()  # type: ignore[attr-defined]
    return scheme


def write_key(
    name: str, path: str | os.PathLike[str], *, block: int | None = None, size: int = 32, made: Scheme | None = None
) -> tuple[Scheme, str | None]:
    """Make a key file, readable by its owner only.

    Args:
        name: the scheme's name.
        path: the file to write; it must not exist.
        block: pixels on a block's side; None takes the scheme's default.
        size: pixels on the side of the images for which the key space is judged.
        made: the scheme itself where it is not made of a fresh key: the control `class`.

    Returns:
        The scheme, and a warning where its key space is below 128 bits.

    Raises:
        UsageError: there is no such scheme or block size, `made` is another scheme, or the file exists.
        RunError: the file could not be written.
    """
    if made is not None and made.name != name:
        raise UsageError(f"a classifier makes the scheme {made.name!r}; leave --classifier out for {name!r}")
    if made is not None and block is not None:
        raise UsageError(f"{name} has no blocks; leave --block out")
    scheme = made or generate_scheme(name, block=block)
    scheme.save(path, replace=False)
    return scheme, key_space_warning(scheme, size)


def key_space_warning(scheme: Scheme, size: int) -> str | None:
    """One sentence where the key space for square images of `size` pixels is below 128 bits, else None."""
    if not isinstance(scheme, KeyedScheme) or scheme.kind == "control":
        return None
    bits = scheme.key_bits(size, size)
    if bits >= SAFE_BITS:
        return None
    blocks = f" with blocks of {scheme.block} pixels" if scheme.has_blocks else ""
    return (
        f"{scheme.name}{blocks} has only {bits:.0f} key bits at {size}x{size}, "
        f"fewer than {SAFE_BITS}: the key can be searched for"
    )
