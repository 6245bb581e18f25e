"""The loop that every trainer shares: randomness of a step, progress, checkpoint and resume.

A step draws all its randomness from (seed, step), so a resumed run needs no generator state and equals one that was
not interrupted.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from imageveil.errors import RunError, UsageError
from imageveil.training.device import Device
from imageveil.training.run_directory import RunDirectory

STEPS_PER_LINE = 50
# A short run is logged more often, so that its curve has points enough.
LEAST_LINES = 20


SMALL_SEEDS = 1 << 64
"""Seeds below are numbers that a user gave; others were drawn (see `imageveil.training.seeds`) and are longer."""


def step_generator(seed: int, step: int, *, stream: int = 0) -> torch.Generator:
    """The source of randomness of one step: a function of seed, step and stream only.

    torch seeds a generator with 32 bits. Those of a drawn seed are a hash, so that all its bits decide the steps of a
    run together.
    """
    if seed >= SMALL_SEEDS:
        hashed = hashlib.sha256(f"{seed} {step} {stream}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(hashed[:4], "little"))
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def seed_weights(seed: int) -> None:
    """Seed the generator that initial weights are drawn from."""
    torch.manual_seed(seed if seed < SMALL_SEEDS else step_generator(seed, 0, stream=6).initial_seed())


def epoch_batches(count: int, batch: int, seed: int, step: int, device: Device) -> Tensor:
    """Indices of this process's share of the batch of one step; each epoch is a fresh permutation of all images."""
    per_epoch = max(count // batch, 1)
    order = torch.randperm(count, generator=step_generator(seed, step // per_epoch, stream=1))
    start = (step % per_epoch) * batch
    return order[start : start + batch][device.rank :: device.world]


def require_size(images: Tensor, smallest: int, what: str) -> None:
    """Refuse images (N, 3, H, W) that have fewer than `smallest` pixels on a side.

    Raises:
        UsageError: they have; `what` is too large for them.
    """
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise UsageError(f"{what} needs images of at least {smallest}x{smallest} pixels, not {width}x{height}")


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
        Seconds spent in steps, over all calls.

    Raises:
        RunError: a loss is not finite, the checkpoint cannot be used, or the run directory cannot be written.
    """
    start, spent = 0, 0.0
    every = max(1, min(STEPS_PER_LINE, total // LEAST_LINES))
    sums: dict[str, Tensor] = {}
    if run is not None and (saved := run.load()) is not None:
        start, spent, content = saved
        try:
            restore(content["run"])
            sums = content["sums"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            # It can be read, but networks or optimizers do not take it.
            raise run.unusable() from error
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
