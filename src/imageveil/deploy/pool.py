"""Worker processes: how they are started, and how they end. Nothing here imports torch."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from types import ModuleType
from typing import ParamSpec, TypeVar

from imageveil.deploy.workers import forget_sources

P = ParamSpec("P")
T = TypeVar("T")


class InProcess(Executor):
    """An executor without processes, for few images and for tests."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run the call now."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerPool(ProcessPoolExecutor):
    """Worker processes that do not import the program they belong to.

    A program that imports torch would make each of them seconds slower to start and half a gigabyte larger.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Hand a call to a worker, which may be started for it."""
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            sys.modules["__main__"] = program


def open_pool(workers: int) -> Executor:
    """Start worker processes for a run; none for 0."""
    forget_sources()
    if workers == 0:
        return InProcess()
    # Forked from a small server process: forking this one, with torch's threads in it, can hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imageveil.deploy.pool"])
    return WorkerPool(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """End with the main process, and only with it: a Ctrl-C reaches all of them, and it says what there is to say.

    After a kill it cannot tell its workers to stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
