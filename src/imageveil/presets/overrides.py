"""A preset by name, with single values replaced from the command line."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from imageveil.errors import UsageError

T = TypeVar("T")


def choose(presets: Mapping[str, Callable[[], T]], name: str, overrides: list[str] | None = None) -> T:
    """Return a preset with some values replaced.

    Args:
        presets: preset functions by name.
        name: which one.
        overrides: texts `key=value`, checked against the type and range of the field; `outer.inner=value` sets one of
            a configuration inside the configuration.

    Raises:
        UsageError: unknown preset or key, or a value of the wrong type or outside its range.
    """
    from pydantic import TypeAdapter, ValidationError

    if name not in presets:
        raise UsageError(f"unknown preset {name!r}; use one of: {', '.join(presets)}")
    config = presets[name]()
    values = asdict(config)  # type: ignore[call-overload]
    places = dict(_places(values))
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals or key not in places:
            raise UsageError(f"--set {text!r}: expected key=value with one of: {', '.join(places)}")
        inside, name = places[key], key.rpartition(".")[2]
        inside[name] = value.split(",") if isinstance(inside[name], tuple) else value
    try:
        return TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {place}: {first['msg'].lower()} (got {first['input']!r})") from error


def _places(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that holds a value, with the names of those around it, and the dictionary that it stands in."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _places(value, f"{prefix}{key}.")
        else:
            yield prefix + key, values


def as_json(config: Any) -> dict[str, Any]:
    """A configuration as a plain dict."""
    return asdict(config)
