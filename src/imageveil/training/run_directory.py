"""The directory of a run: `config.json`, `metrics.jsonl`, `checkpoint/`, `results.json`.

What lies there may be a transformation network and the one that undoes it, so directories that are made here, and all
tensors, are readable by their owner only.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imageveil.errors import RunError, UsageError
from imageveil.images.sinks import write_files
from imageveil.records import write_json
from imageveil.training.device import Device


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into one sentence.

    Raises:
        RunError: the block could not write.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can open; one that is there keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, readable by its owner only; safetensors' own writer does neither.

    Raises:
        RunError: it could not be written; what was there before is left as it was.
    """
    write_files([(path, save(dict(tensors), None if metadata is None else dict(metadata)))], private=True)


class RunDirectory:
    """The directory of one run.

    Several processes share one directory, in which process 0 writes. Each draws its own share of the randomness, so
    their number belongs to the configuration. A checkpoint holds the networks of process 0: weights are the same in
    all, but the running statistics of batch norm, which every process gathers on its share until they are averaged at
    the end, go on from those of process 0. A resumed run of several processes is therefore close to an uninterrupted
    one and not equal to it; with one process it is equal.

    Args:
        path: the directory; made if missing.
        config: everything that decides the result, but where it is computed: a run may be continued on another machine
            or in another precision (see `kind`). A directory that holds another configuration is refused.
        device: where the run computes, with how many processes.

    Raises:
        UsageError: the directory holds a run of another configuration.
        RunError: the directory cannot be written, or what it holds cannot be read.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], device: Device) -> None:
        self.path = path
        self.main = device.rank == 0
        self._kinds = [device.kind]
        self.checkpoint = path / "checkpoint" / "state.safetensors"
        config = json.loads(json.dumps(dict(config) | ({"world": device.world} if device.world > 1 else {})))
        existing = path / "config.json"
        with writing(path):
            private_folder(path)
        if existing.is_file():
            other = _read_json(existing)
            if other != config:
                keys = sorted(k for k in {*other, *config} if other.get(k) != config.get(k))
                raise UsageError(f"{path} holds a run with other settings ({', '.join(keys)}); use another directory")
        elif self.main:
            with writing(existing):
                write_json(existing, config)

    @property
    def kind(self) -> str:
        """What the run was computed on, as records say it; all kinds in turn where it was continued elsewhere."""
        return ", then ".join(dict.fromkeys(self._kinds))

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        path = self.path / "results.json"
        return _read_json(path) if path.is_file() else None

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results and remove the checkpoint, which is no longer needed.

        Raises:
            RunError: the directory cannot be written.
        """
        if self.main:
            with writing(self.path):
                write_json(self.path / "results.json", dict(results))
                for file in self.checkpoint.parent.glob("*"):
                    file.unlink()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: it cannot be written.
        """
        path = self.path / "metrics.jsonl"
        if self.main:
            with writing(path), path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def save(self, step: int, seconds: float, state: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically: tensors as safetensors, the rest as its JSON metadata.

        Raises:
            RunError: it cannot be written.
        """
        if not self.main:
            return
        tensors, plain = flatten_state(state)
        folder = self.checkpoint.parent
        with writing(folder):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        metadata = {"step": str(step), "seconds": str(seconds), "plain": json.dumps(plain)}
        metadata["kinds"] = json.dumps(self._kinds)
        write_tensors(self.checkpoint, tensors, metadata)

    def load(self) -> tuple[int, float, dict[str, Any]] | None:
        """Return (step, seconds, state) of the checkpoint, or None, and drop the logged lines of the steps to come.

        Raises:
            RunError: the checkpoint is damaged, or the log cannot be written.
        """
        if not self.checkpoint.is_file():
            # A run that was killed before its first checkpoint begins again, and so does its log.
            self._forget_after(0)
            return None
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                meta = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            step, seconds = int(meta["step"]), float(meta["seconds"])
            state = unflatten_state(tensors, json.loads(meta["plain"]))
            self._kinds = json.loads(meta.get("kinds", "[]")) + self._kinds
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise self.unusable() from error
        self._forget_after(step)
        return step, seconds, state

    def unusable(self) -> RunError:
        """What to say when the checkpoint cannot be used."""
        return RunError(f"the checkpoint {self.checkpoint} is damaged; delete it to begin this run again")

    def _forget_after(self, step: int) -> None:
        """Drop the logged lines of steps that will be done again, and a line that was never finished."""
        path = self.path / "metrics.jsonl"
        if not self.main or not path.is_file():
            return
        kept = []
        with writing(path):
            for line in path.read_text(errors="replace").splitlines():
                # A run that was killed, or found the disk full, may have left half a line.
                with contextlib.suppress(json.JSONDecodeError):
                    if json.loads(line).get("step", 0) <= step:
                        kept.append(line)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged; use another directory, or delete this one to begin again") from error
    return content


def flatten_state(state: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts and lists into named tensors and JSON with the names in the places of the tensors."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            # A copy in plain layout: safetensors refuses strided and shared memory.
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"__tensor__": name}
        if isinstance(value, Mapping):
            # Optimizer states have integer keys, which JSON would turn into strings.
            return {"__items__": [[key, walk(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [walk(item, f"{name}.{index}") for index, item in enumerate(value)]
        return value

    plain = walk(state, prefix)
    return tensors, plain


def unflatten_state(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """Undo `flatten_state`."""
    if isinstance(plain, dict):
        if "__tensor__" in plain:
            return tensors[plain["__tensor__"]]
        return {key: unflatten_state(tensors, value) for key, value in plain["__items__"]}
    if isinstance(plain, list):
        return [unflatten_state(tensors, value) for value in plain]
    return plain
