"""Does units of work with an executor, and outlives a worker that dies.

Where the work is done is a plugin (``cpplug.executor``): this process, threads, worker processes.
When a worker process dies (killed, out of memory), the pool is made anew and the units in flight
are tried again; a unit that was in flight twice runs alone the third time, so that the one that
kills its worker fails by itself and is named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from functools import partial

from cpplug.api.records import ExecutorSetup, WorkExecutor
from cpplug.engine.units import Done, Session, Task, do_in_worker, start_worker
from cpplug.host.catalog import Catalog

MAX_TRIES = 3
DEFAULT = "processes"
"""Executor for more than one job."""
ALONE = "serial"
"""Executor for one job."""


def work_through(
    tasks: Sequence[Task], catalog: Catalog, jobs: int, executor: str = ""
) -> Generator[Done, None, None]:
    """Do all tasks; yield each answer as it comes.

    Parameters
    ----------
    tasks
        The units.
    catalog
        The plugins; workers rebuild it from its specification.
    jobs
        Units at a time.
    executor
        Name of an executor plugin; by default processes, or this process for a single job.

    Yields
    ------
    Done
        One per task, in the order of finishing. Closing the generator stops the work.
    """
    alone = jobs <= 1 or len(tasks) <= 1
    record: WorkExecutor = catalog.get("executor", executor or (ALONE if alone else DEFAULT))
    if record.processes:
        setup = ExecutorSetup(
            jobs=jobs,
            start=partial(start_worker, catalog.spec()),
            preload=("cpplug.engine.units",),
        )
        yield from _all(tasks, lambda: record.make(setup), do_in_worker, jobs)
    else:
        session = Session(catalog)
        setup = ExecutorSetup(jobs=jobs, start=lambda: None)
        yield from _all(tasks, lambda: record.make(setup), session.do, jobs)


def _all(
    tasks: Sequence[Task],
    make: Callable[[], Executor],
    do: Callable[[Task], Done],
    jobs: int,
) -> Iterator[Done]:
    waiting = deque(tasks)
    tries = dict.fromkeys((task.unit for task in tasks), 0)
    flying: dict[Future[Done], Task] = {}
    pool = make()
    try:
        while waiting or flying:
            suspect = bool(waiting) and tries[waiting[0].unit] >= MAX_TRIES - 1
            # One more than can be worked on, so that none waits; alone, each is told of at once.
            room = 1 if suspect or jobs == 1 else jobs + 1
            while waiting and len(flying) < room and not (suspect and flying):
                if not suspect and tries[waiting[0].unit] >= MAX_TRIES - 1:
                    break
                task = waiting.popleft()
                tries[task.unit] += 1
                try:
                    flying[pool.submit(do, task)] = task
                except BrokenExecutor:
                    tries[task.unit] -= 1
                    waiting.appendleft(task)
                    break
            finished, _ = wait(flying, return_when=FIRST_COMPLETED) if flying else (set(), None)
            broken = not flying
            for future in finished:
                task = flying.pop(future)
                try:
                    yield future.result()
                except BrokenExecutor:
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
                pool = make()
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
