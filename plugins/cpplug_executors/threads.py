"""Threads of this process: one memory, quick to start; a crash takes everything with it."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor

from cpplug.api import ExecutorSetup, WorkExecutor


def make(setup: ExecutorSetup) -> Executor:
    """Return a pool of ``setup.jobs`` threads."""
    setup.start()
    return ThreadPoolExecutor(setup.jobs, thread_name_prefix="unit")


EXECUTOR = WorkExecutor(
    name="threads", summary="Threads of this process", make=make, processes=False
)
