"""Schemes and attacks of other installed packages.

A package names its modules under the entry points `imageveil.schemes` and `imageveil.attacks`; what is defined in them
registers itself.
"""

import warnings
from importlib.metadata import entry_points


def load_plugins(group: str) -> None:
    """Import what installed packages offer; one that cannot be imported is left out with a warning.

    Args:
        group: the entry points, for example `imageveil.schemes`.
    """
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:  # whatever somebody else's module does
            package = entry.dist.name if entry.dist else entry.value
            warnings.warn(
                f"{entry.name} of the package {package} is left out: {type(error).__name__}: {error}", stacklevel=2
            )
