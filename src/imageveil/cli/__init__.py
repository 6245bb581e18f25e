"""The commands: each parses its options, calls one function and prints what came of it."""

import sys
import warnings
from io import TextIOWrapper

from imageveil.cli import judge as judge
from imageveil.cli import keep as keep
from imageveil.cli import learn as learn
from imageveil.cli.options import app
from imageveil.errors import RunError, UsageError, out_of_memory

__all__ = ["app", "main"]

INTERRUPTED = 130
"""The exit code that Typer makes of a Ctrl-C."""

OUT_OF_MEMORY = (
    "memory ran out; use fewer or smaller images, or a smaller batch where the command has one (--set batch=)"
)


def main() -> None:
    """Run the command line: exit code 2 for wrong use, 1 for a run that failed, one sentence for either."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be of bytes that are no text
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("imageveil: interrupted; what has a run directory or a destination continues there", file=sys.stderr)
        if not end.code and "torch" in sys.modules:
            from imageveil.training.device import leave_processes

            leave_processes()
        raise
    except UsageError as error:
        print(f"imageveil: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"imageveil: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"imageveil: {error.filename} cannot be used: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"imageveil: {OUT_OF_MEMORY}", file=sys.stderr)
        sys.exit(1)
