"""The two ways a run ends badly. Each message is one sentence that names the file or option and what to do."""


class UsageError(ValueError):
    """Wrong use: a path, name or option that cannot work. The command line exits with 2."""


class RunError(RuntimeError):
    """A run that was asked for correctly and failed, for example on a full disk. The command line exits with 1."""
