"""Kill `imageveil protect` at random moments and look at what is there; a program, so that its children are forks.

Arguments: source, destination, scheme, folder of an uninterrupted run, number of kills, worker processes, output.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def files(folder: Path) -> dict[str, bytes]:
    """Everything but the journal and what is still named temporary."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def main() -> None:
    # Imported here and not above: worker processes import this file too, and need no torch.
    import torch

    from imageveil.deploy.bulk import ProtectOptions, protect_source
    from imageveil.deploy.plan import Sizes

    source, destination, scheme, reference, kills, workers, output = sys.argv[1:]
    torch.set_num_threads(1)
    options = ProtectOptions(
        workers=int(workers), quiet=True, output=output, engine="torch", sizes=Sizes(images=3, bytes=2**30)
    )
    if not Path(reference).exists():
        pid = os.fork()
        if pid == 0:
            protect_source(source, reference, scheme, options)
            os._exit(0)
        os.waitpid(pid, 0)
    expected = files(Path(reference))
    chance, hits, before = random.Random(0), 0, {}
    while hits < int(kills):
        pid = os.fork()
        if pid == 0:
            protect_source(source, destination, scheme, options)
            os._exit(0)
        # Measured in processor time, so that a busy machine does not move every kill to the start.
        moment = chance.uniform(0, 0.12) * (1 + 4 * (int(workers) > 0))
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if processor_time(pid) >= moment:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                hits += 1
                break
            time.sleep(0.001)
        else:
            for path in sorted(Path(destination).rglob("*"), reverse=True):  # it finished: start again
                path.rmdir() if path.is_dir() else path.unlink()
            before = {}
            continue
        found = files(Path(destination))
        assert all(expected[name] == blob for name, blob in found.items()), "a partial or different image"
        assert set(before) <= set(found), "a finished image was lost"
        before = found
    protect_source(source, destination, scheme, options)
    assert files(Path(destination)) == expected, "differs from the uninterrupted run"
    assert not list(Path(destination).rglob("*.imageveil-tmp")), "temporary files were left"
    print(f"{hits} kills, {len(expected)} files equal")


if __name__ == "__main__":
    main()
