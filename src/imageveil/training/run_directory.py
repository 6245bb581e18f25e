"""The directory of a run: `config.json`, `metrics.jsonl`, `checkpoint/`, `results.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from imageveil.errors import RunError, UsageError
from imageveil.records import write_json
from imageveil.training.device import Device


class RunDirectory:
    """The directory of one run.

    Args:
        path: the directory; made if missing.
        config: everything that decides the result. A directory that holds another configuration is refused.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], device: Device) -> None:
        self.path = path
        self.main = device.rank == 0
        config = json.loads(json.dumps(config))
        try:
            path.mkdir(parents=True, exist_ok=True)
            existing = path / "config.json"
            if existing.is_file():
                other = json.loads(existing.read_text())
                if other != config:
                    keys = sorted(k for k in {*other, *config} if other.get(k) != config.get(k))
                    raise UsageError(
                        f"{path} holds a run with other settings ({', '.join(keys)}); use another directory"
                    )
            elif self.main:
                write_json(existing, config)
        except OSError as error:
            raise RunError(f"cannot write the run directory {path}: {error.strerror}") from error

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results and remove the checkpoint, which is no longer needed."""
        if self.main:
            write_json(self.path / "results.json", dict(results))
            for file in (self.path / "checkpoint").glob("*"):
                file.unlink()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if self.main:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def save(self, step: int, seconds: float, state: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically: tensors as safetensors, the rest as its JSON metadata."""
        if not self.main:
            return
        tensors, plain = flatten_state(state)
        folder = self.path / "checkpoint"
        folder.mkdir(exist_ok=True)
        metadata = {"step": str(step), "seconds": str(seconds), "plain": json.dumps(plain)}
        try:
            save_file(tensors, folder / "state.tmp", metadata)
            (folder / "state.tmp").replace(folder / "state.safetensors")
        except OSError as error:
            raise RunError(f"cannot write a checkpoint to {folder}: {error.strerror}") from error

    def load(self) -> tuple[int, float, dict[str, Any]] | None:
        """Return (step, seconds, state) of the checkpoint, or None."""
        path = self.path / "checkpoint" / "state.safetensors"
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._forget_after(int(meta["step"]))
        return int(meta["step"]), float(meta["seconds"]), unflatten_state(tensors, json.loads(meta["plain"]))

    def _forget_after(self, step: int) -> None:
        """Drop the logged lines of steps that will be done again."""
        path = self.path / "metrics.jsonl"
        if self.main and path.is_file():
            lines = [line for line in path.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
            path.write_text("".join(line + "\n" for line in lines))


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
