"""The commands: each parses its options, calls one function and prints what came of it."""

import sys
import warnings

from imageveil.cli import judge as judge
from imageveil.cli import keep as keep
from imageveil.cli import learn as learn
from imageveil.cli.options import app
from imageveil.errors import RunError, UsageError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line: exit code 2 for wrong use, 1 for a run that failed, one sentence for either."""
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    try:
        app()
    except SystemExit as end:
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
    except KeyboardInterrupt:
        print("imageveil: interrupted; with a run directory the same command continues", file=sys.stderr)
        sys.exit(130)
