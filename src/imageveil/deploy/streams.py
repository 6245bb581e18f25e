"""Batches computed side by side: one thread a stream, and each computes with one processor thread.

Streams of one thread need not wait for each other within a layer. While worker processes decode and encode on the same
processors, a layer that is split over all of them waits for whichever is taken.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

M_ARENA_MAX = -8  # a parameter of glibc's mallopt (malloc.h)
T = TypeVar("T")


class Streams:
    """Runs calls side by side.

    Args:
        count: how many at the same time; 1 runs them here.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool: ThreadPoolExecutor | None = None
        if count == 1:
            return
        share_memory_of_threads()
        threads = torch.get_num_threads()
        met = threading.Barrier(count)

        def begin() -> None:
            torch.get_num_threads()  # settles this thread's own number before it is changed
            torch.set_num_threads(1)
            met.wait()

        self.pool = ThreadPoolExecutor(count, thread_name_prefix="imageveil-stream", initializer=begin)
        for started in [self.pool.submit(lambda: None) for _ in range(count)]:
            started.result()
        torch.set_num_threads(threads)  # the threads keep their 1, every other thread its number

    def run(self, calls: Iterable[Callable[[], T]]) -> list[T]:
        """Run calls and return their results in their order."""
        if self.pool is None:
            return [call() for call in calls]
        futures = [self.pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def share_memory_of_threads() -> None:
    """Have all threads take memory from one place, where freed memory is kept (see `keep_freed_memory`).

    By default glibc gives each thread a place of its own, which holds no block above 64 MB: the feature maps of a tile
    would be mapped and cleared afresh for every layer. Other libraries than glibc are left alone.
    """
    _c_library("mallopt", M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return the memory that was freed and kept to the system: after a step that needed an unusual amount."""
    _c_library("malloc_trim", 0)


def _c_library(name: str, *numbers: int) -> None:
    """Call a function of glibc, if that is the C library."""
    if not sys.platform.startswith("linux"):
        return
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return
    function(*numbers)
