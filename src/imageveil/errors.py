"""The two ways a run ends badly. Each message is one sentence that names the file or option and what to do."""


class UsageError(ValueError):
    """Wrong use: a path, name or option that cannot work. The command line exits with 2."""


class RunError(RuntimeError):
    """A run that was asked for correctly and failed, for example on a full disk. The command line exits with 1."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the processor or on a GPU."""
    # PyTorch has no error of its own for a processor's memory, and importing it for a GPU's would take seconds.
    words = ("allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))
