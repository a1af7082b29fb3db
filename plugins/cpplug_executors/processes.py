"""Worker processes that stay: each starts once, loads its plugins, and takes unit after unit.

New workers come from a fork server, which has the heavy libraries loaded but none of this process's
threads or locks. They never run the user's script again.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from cpplug.api import ExecutorSetup, WorkExecutor

P = ParamSpec("P")
T = TypeVar("T")


class ForkServerPool(ProcessPoolExecutor):
    """A process pool whose workers do not import the user's script."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Hand a call to a worker; a new worker may be started for it."""
        with _without_main():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide what would make a new process import the main script."""
    main = sys.modules["__main__"].__dict__
    saved = {name: main.get(name) for name in ("__spec__", "__file__")}
    main["__spec__"] = None
    main.pop("__file__", None)
    try:
        yield
    finally:
        main.update({name: value for name, value in saved.items() if name == "__spec__" or value})


def make(setup: ExecutorSetup) -> Executor:
    """Return a pool of ``setup.jobs`` processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(setup.preload))
    return ForkServerPool(setup.jobs, mp_context=context, initializer=setup.start)


EXECUTOR = WorkExecutor(
    name="processes", summary="Worker processes that stay", make=make, processes=True
)
