"""What a scheme file holds, in words."""

import json
from typing import Any

from imageveil.schemes.base import public_notice, read_scheme_file, resolve_scheme


def describe(name_or_path: str) -> str:
    """Return what a scheme file holds as lines of text, without any key material; of a shipped one, its figures too.

    Raises:
        UsageError: there is no such scheme, or the file is damaged.
    """
    path, public = resolve_scheme(name_or_path)
    tensors, name, metadata = read_scheme_file(path)
    lines = [f"scheme: {name}", f"file: {path.name}, {path.stat().st_size / 1e6:.2f} MB", f"tensors: {len(tensors)}"]
    lines += _lines(metadata, "")
    if public:
        beside = path.with_suffix(".json")
        lines += _lines({"measured": json.loads(beside.read_text()) if beside.is_file() else {}}, "")
        lines.append(public_notice(name_or_path))
    return "\n".join(lines)


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines
