"""Where and how networks are computed: processor or GPU, precision, one process or several."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imageveil.errors import UsageError
from imageveil.processor import this_processor
from imageveil.records import device_kind

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "float32")
# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


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

    @property
    def kind(self) -> str:
        """What records say that something was computed on."""
        return device_kind(cuda=self.torch.type == "cuda", bf16=self.bf16)

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
    """Whether bfloat16 is the fast path of this machine's processor."""
    return this_processor().bf16 is not None


def keep_freed_memory() -> bool:
    """Have the C library reuse the memory of freed tensors instead of returning it to the system.

    Feature maps of tens of megabytes are made and freed in every step. By default glibc maps each afresh and the
    kernel clears it page by page, which takes longer than the arithmetic: element-wise layers run up to ten times
    faster without, a training step of the `quick` classifier 1.4 times (`benchmarks/memory.py`).

    Returns:
        Whether the C library took the settings; other libraries than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # No mapping of single blocks, never shrink the heap, and let it grow in large steps.
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 64 << 20)])


def open_device(name: str = "auto", *, precision: str = "auto") -> Device:
    """Choose a device and join the process group when started by torchrun.

    Args:
        name: `auto`, `cpu` or `cuda`.
        precision: `auto` (bfloat16 where it is the processor's fast path), `bf16` or `float32`.

    Raises:
        UsageError: the device or precision is unknown or not there.
    """
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}; use one of: {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; use one of: {', '.join(PRECISIONS)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is present; use --device cpu")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    if not cuda:
        keep_freed_memory()
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


def average_buffers(device: Device, network: nn.Module) -> None:
    """Average the running statistics, which every process gathered on its own share, so that all judge alike."""
    if device.world == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= device.world


def leave_processes() -> None:
    """End this process at once if it is one of several, when all of them have come here.

    Threads of gloo may still release tensors while the interpreter shuts down, which now and then aborts a process that
    has done all its work (PyTorch pull request 179291); torchrun would call that a failure.
    """
    if not dist.is_initialized():
        return
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


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
