"""imageveil hides images from view before a cloud trains on them, and measures what still leaks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imageveil.schemes.base import Scheme
    from imageveil.schemes.transform import VisualProtection

__version__ = "0.1.0"
__all__ = ["Scheme", "VisualProtection", "__version__", "load_scheme"]

_PUBLIC = {
    "Scheme": "imageveil.schemes.base",
    "VisualProtection": "imageveil.schemes.transform",
    "load_scheme": "imageveil.schemes",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `imageveil --help` does not wait for torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'imageveil' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
