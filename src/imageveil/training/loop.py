"""What every trainer shares: device, precision, several processes, progress, checkpoint and resume.

A run lives in a directory: `config.json`, `metrics.jsonl`, `checkpoint/`, `results.json`. A step draws all its
randomness from (seed, step), so a resumed run needs no generator state and equals one that was not interrupted.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imageveil.errors import RunError, UsageError
from imageveil.records import write_json

STEPS_PER_LINE = 50
# A short run is logged more often, so that its curve has points enough.
LEAST_LINES = 20


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where and how numbers are computed.

    Attributes:
        torch: the torch device.
        bf16: whether networks run in bfloat16 autocast.
        rank: number of this process among `world`.
        world: number of processes that share every batch.
    """

    torch: torch.device
    bf16: bool
    rank: int = 0
    world: int = 1

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast to bfloat16 where it is fast; otherwise nothing."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=self.bf16)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network here, channels last, with the weights of process 0."""
        module = module.to(self.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)
        return module

    def wait(self) -> None:
        """Wait for the other processes, so that what process 0 wrote is there for all."""
        if self.world > 1:
            dist.barrier()

    def batch(self, images: Tensor) -> Tensor:
        """Move uint8 images here and turn them into float32 in [0, 1], channels last."""
        images = images.to(self.torch, non_blocking=True)
        return images.to(memory_format=torch.channels_last).float().div_(255)


def has_fast_bf16() -> bool:
    """Whether this processor computes in bfloat16 natively (AMX or AVX512-BF16)."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def open_device(name: str = "auto", *, precision: str = "auto") -> Device:
    """Choose a device and join the process group when started by torchrun.

    Args:
        name: `auto`, `cpu` or `cuda`.
        precision: `auto` (bfloat16 where the processor has it), `bf16` or `float32`.

    Raises:
        UsageError: the device or precision is unknown or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}; use auto, cpu or cuda")
    if precision not in ("auto", "bf16", "float32"):
        raise UsageError(f"unknown precision {precision!r}; use auto, bf16 or float32")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is present; use --device cpu")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    bf16 = precision == "bf16" or (
        precision == "auto" and (torch.cuda.is_bf16_supported() if cuda else has_fast_bf16())
    )
    return Device(torch=device, bf16=bf16, rank=rank, world=world)


def average_gradients(device: Device, parameters: Iterator[nn.Parameter]) -> None:
    """Average gradients over all processes, in one message.

    The transformation trainer calls one network several times before one backward pass and steps its networks at
    different rates; averaging explicitly, just before a step, is data-parallel training without hooks to be misled.
    """
    if device.world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= device.world
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def step_generator(seed: int, step: int, *, stream: int = 0) -> torch.Generator:
    """The source of randomness of one step: a function of seed, step and stream only."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def epoch_batches(count: int, batch: int, seed: int, step: int, device: Device) -> Tensor:
    """Indices of this process's share of the batch of one step; each epoch is a fresh permutation of all images."""
    per_epoch = max(count // batch, 1)
    order = torch.randperm(count, generator=step_generator(seed, step // per_epoch, stream=1))
    start = (step % per_epoch) * batch
    return order[start : start + batch][device.rank :: device.world]


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


class Progress:
    """Rate and time left: a live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, title: str, total: int, *, start: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self.start, self.quiet = title, total, start, quiet
        self.begun = self.last = time.monotonic()
        self.live = sys.stderr.isatty()

    def update(self, step: int, per_step: int, values: Mapping[str, float]) -> None:
        """Show progress after `step` steps of `per_step` images."""
        now = time.monotonic()
        if self.quiet or (now - self.last < (0.5 if self.live else 15) and step < self.total):
            return
        self.last = now
        rate = (step - self.start) / max(now - self.begun, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        line = f"{self.title} {step}/{self.total}  {rate * per_step:.0f} images/s  {left / 60:.1f} min left  {shown}"
        end = "\n" if not self.live or step >= self.total else "\r"
        print("\x1b[K" + line if self.live else line, file=sys.stderr, end=end, flush=True)


def run_steps(
    *,
    title: str,
    total: int,
    batch: int,
    step_fn: Callable[[int], dict[str, Tensor]],
    state: Callable[[], dict[str, Any]],
    restore: Callable[[dict[str, Any]], None],
    run: RunDirectory | None,
    device: Device,
    checkpoint_seconds: float = 120,
    stop_after: int | None = None,
) -> float:
    """Run the steps that are left, with a log line every 50 steps (or less) and a checkpoint every two minutes.

    Args:
        title: what is being done, for the progress line.
        total: number of steps of the whole run.
        batch: images a step, over all processes.
        step_fn: does one step and returns scalar tensors to log; it is given the step's number.
        state: everything to be saved, as nested dicts, lists, tensors and numbers.
        restore: takes what `state` returned.
        run: where to log and checkpoint; None for a run that leaves nothing.
        device: where to run.
        checkpoint_seconds: time between checkpoints.
        stop_after: leave after this many steps of this call, with a checkpoint, as if interrupted.

    Returns:
        Seconds spent in steps, over all sessions of the run.

    Raises:
        RunError: a loss is not finite.
    """
    start, spent = 0, 0.0
    every = max(1, min(STEPS_PER_LINE, total // LEAST_LINES))
    sums: dict[str, Tensor] = {}
    if run is not None and (saved := run.load()) is not None:
        start, spent, content = saved
        restore(content["run"])
        sums = content["sums"]
    progress = Progress(title, total, start=start, quiet=device.rank != 0)
    begun = saved_at = time.monotonic()
    for step in range(start, total):
        values = step_fn(step)
        for name, value in values.items():
            value = value.detach().float()
            sums[name] = sums[name].to(value.device) + value if name in sums else value
        done = step + 1
        if done % every == 0 or done == total:
            count = (done - 1) % every + 1
            means = {name: float(value) / count for name, value in sums.items()}
            sums = {}
            if not all(map(_finite, means.values())):
                raise RunError(f"{title} diverged at step {done} ({means}); lower the learning rate")
            if run is not None:
                run.log({"step": done, "seconds": round(spent + time.monotonic() - begun, 1), **means})
            progress.update(done, batch, means)
        stop = stop_after is not None and done - start >= stop_after and done < total
        if run is not None and (stop or time.monotonic() - saved_at > checkpoint_seconds) and done < total:
            run.save(done, spent + time.monotonic() - begun, {"run": state(), "sums": sums})
            saved_at = time.monotonic()
        if stop:
            break
    return spent + time.monotonic() - begun


def _finite(value: float) -> bool:
    return abs(value) != float("inf") and value == value
