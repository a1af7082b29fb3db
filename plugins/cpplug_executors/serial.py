"""One unit after the other, in this process: for small jobs and for looking at errors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from cpplug.api import ExecutorSetup, WorkExecutor

P = ParamSpec("P")
T = TypeVar("T")


class SerialExecutor(Executor):
    """Does the work while it is submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function now; the future that is returned is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def make(setup: ExecutorSetup) -> Executor:
    """Return an executor that works alone, whatever number of jobs was asked for."""
    setup.start()
    return SerialExecutor()


EXECUTOR = WorkExecutor(
    name="serial", summary="One unit after the other, in this process", make=make, processes=False
)
