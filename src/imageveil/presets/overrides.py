"""A preset by name, with single values replaced from the command line."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from imageveil.errors import UsageError

T = TypeVar("T")


def choose(presets: Mapping[str, Callable[[], T]], name: str, overrides: list[str] | None = None) -> T:
    """Return a preset with some values replaced.

    Args:
        presets: preset functions by name.
        name: which one.
        overrides: texts `key=value`, checked against the type and range of the field.

    Raises:
        UsageError: unknown preset or key, or a value of the wrong type or outside its range.
    """
    from pydantic import TypeAdapter, ValidationError

    if name not in presets:
        raise UsageError(f"unknown preset {name!r}; use one of: {', '.join(presets)}")
    config = presets[name]()
    values = asdict(config)  # type: ignore[call-overload]
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals or key not in values:
            raise UsageError(f"--set {text!r}: expected key=value with one of: {', '.join(values)}")
        values[key] = value.split(",") if isinstance(values[key], tuple) else value
    try:
        return TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {place}: {first['msg'].lower()} (got {first['input']!r})") from error


def as_json(config: Any) -> dict[str, Any]:
    """A configuration as a plain dict."""
    return asdict(config)
