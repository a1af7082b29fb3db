"""Does units of work, here or in worker processes, and outlives a worker that dies.

The pool is long-lived (forkserver): a worker starts once, loads its plugins, and then takes unit
after unit. When a worker dies (killed, out of memory), the pool is rebuilt and the units in flight
are tried again; a unit that was in flight twice runs alone the third time, so that the one that
kills its worker fails by itself and is named.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from cpplug.engine.units import Done, Session, Task, do_in_worker, start_worker
from cpplug.host.catalog import Catalog

MAX_TRIES = 3


def work_through(tasks: Sequence[Task], catalog: Catalog, jobs: int) -> Generator[Done, None, None]:
    """Do all tasks; yield each answer as it comes.

    Parameters
    ----------
    tasks
        The units.
    catalog
        The plugins; workers rebuild it from its specification.
    jobs
        Worker processes; 1 does the work in this process.

    Yields
    ------
    Done
        One per task, in the order of finishing. Closing the generator stops the work.
    """
    if jobs <= 1 or len(tasks) <= 1:
        session = Session(catalog)
        for task in tasks:
            yield session.do(task)
        return
    yield from _in_processes(tasks, catalog.spec(), jobs)


def _pool(spec: dict[str, Any], jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cpplug.engine.units"])
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker, initargs=(spec,))


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep new workers from running the user's script again, which they would import otherwise."""
    main = sys.modules["__main__"].__dict__
    saved = {name: main.get(name) for name in ("__spec__", "__file__")}
    main["__spec__"] = None
    main.pop("__file__", None)
    try:
        yield
    finally:
        main.update({name: value for name, value in saved.items() if name == "__spec__" or value})


def _in_processes(tasks: Sequence[Task], spec: dict[str, Any], jobs: int) -> Iterator[Done]:
    waiting = deque(tasks)
    tries = dict.fromkeys((task.unit for task in tasks), 0)
    flying: dict[Future[Done], Task] = {}
    pool = _pool(spec, jobs)
    try:
        while waiting or flying:
            suspect = bool(waiting) and tries[waiting[0].unit] >= MAX_TRIES - 1
            room = 1 if suspect else jobs + 1
            while waiting and len(flying) < room and not (suspect and flying):
                if not suspect and tries[waiting[0].unit] >= MAX_TRIES - 1:
                    break
                task = waiting.popleft()
                tries[task.unit] += 1
                try:
                    with _without_main():
                        flying[pool.submit(do_in_worker, task)] = task
                except BrokenProcessPool:
                    tries[task.unit] -= 1
                    waiting.appendleft(task)
                    break
            finished, _ = wait(flying, return_when=FIRST_COMPLETED) if flying else (set(), None)
            broken = not flying
            for future in finished:
                task = flying.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken = True
                    if tries[task.unit] >= MAX_TRIES:
                        yield _died(task)
                    else:
                        waiting.append(task)
            if broken:
                # All that flew with the dead worker comes back; the pool is made anew.
                for future, task in list(flying.items()):
                    if future.done() and future.exception() is None:
                        continue
                    flying.pop(future)
                    if tries[task.unit] >= MAX_TRIES:
                        yield _died(task)
                    else:
                        waiting.append(task)
                pool.shutdown(wait=True, cancel_futures=True)
                pool = _pool(spec, jobs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _died(task: Task) -> Done:
    return Done(
        unit=task.unit,
        exposure=task.info.exposure,
        detector=task.detector,
        events=[],
        seconds=0.0,
        peak_mb=0.0,
        worker="dead",
        error=f"The worker process died {MAX_TRIES} times on this unit (killed, or out of memory).",
        next_step="Try it alone with -j 1, and look at the memory of this machine.",
        exit_code=7,
    )
