"""Carries a plan out: ISR units in workers, one reduction per group, products into the repository.

The driver is the only writer of the registry. Every run is a new RUN collection
``<output>/<UTC time>``, put in front of the chain ``<output>``. A run that is killed leaves
finished units behind, and ``--resume`` goes on from there; nothing half-written is ever registered.
"""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api import times
from cpplug.api.errors import CpplugError, PluginError, RepositoryError, UnitsFailed
from cpplug.api.events import (
    ConfigResolved,
    Event,
    ExposureRejected,
    ProductWritten,
    RunFailed,
    RunFinished,
    RunStarted,
    UnitFinished,
    UnitSkipped,
)
from cpplug.api.product import ImageProduct, Product
from cpplug.api.records import Calibration, Work
from cpplug.engine import scratch
from cpplug.engine.calibs import FoundCalibs, ProductCache
from cpplug.engine.context import StoredExposures, UnitContext
from cpplug.engine.failures import allowed_failures, tell, warn_unusable
from cpplug.engine.ledger import Ledger, last_sequence
from cpplug.engine.names import new_run
from cpplug.engine.plan import Group, Plan, Prepared, Unit
from cpplug.engine.products import write_product
from cpplug.engine.provenance import product_cards, provenance_of
from cpplug.engine.tasks import common_calibs, in_group, make_task, seed_of
from cpplug.engine.units import Done, Task, unusable_amplifiers
from cpplug.engine.workers import work_through
from cpplug.host.bus import Bus
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRecord, RunRecord


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is carried out; none of these changes a pixel."""

    output: str
    jobs: int = 1
    executor: str = ""
    """Name of an executor plugin; empty for the default."""
    resume: bool = False
    fail_fast: bool = False
    max_failed: str = "10%"
    """How many exposures of a group may fail: a number, or a percentage."""
    command: str = ""
    keep_scratch: bool = False


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run made."""

    run: str
    products: tuple[Any, ...]
    failed: tuple[str, ...]
    """Units that failed, each with its reason."""
    skipped: int = 0
    seconds: float = 0.0
    nothing_to_do: bool = False


class Driver:
    """One run from accepted plan to registered products."""

    def __init__(
        self,
        repo: Repository,
        catalog: Catalog,
        prepared: Prepared,
        options: RunOptions,
        listeners: Sequence[tuple[str, Callable[..., None]]],
    ) -> None:
        self.repo = repo
        self.catalog = catalog
        self.plan: Plan = prepared.plan
        self.recipe: Calibration = prepared.recipe
        self.prepared = prepared
        self.options = options
        # Words that mean nothing stop us here, before the run has a name.
        allowed_failures(options.max_failed, 1)
        if options.executor:
            catalog.get("executor", options.executor)
        self._listeners = listeners
        self.failed: dict[str, str] = {}
        self.skipped = 0
        self._done = 0

    # ---- the run's name -----------------------------------------------------------------------
    def _claim_run(self) -> tuple[str, bool]:
        """Return the RUN to write to: an unfinished one with the same plan, or a new one."""
        output = self.options.output
        if self.options.resume:
            digest = self.plan.digest()
            for row in reversed(self.repo.runs(calibration=self.plan.calibration)):
                same = row.details.get("plan_digest") == digest
                if same and row.run.startswith(f"{output}/"):
                    return row.run, True
        return new_run(self.repo, output, self.options.command), False

    # ---- the run ------------------------------------------------------------------------------
    def carry_out(self) -> RunResult:
        """Do it.

        Raises
        ------
        UnitsFailed
            When too many exposures of a group failed for its product to be made.
        CpplugError
            When the reduction cannot be done, or the repository cannot be written.
        """
        started = time.perf_counter()
        self.run, resumed = self._claim_run()
        if resumed and self._finished_before():
            return RunResult(
                run=self.run,
                products=tuple(self.repo.datasets(None, [self.run])),
                failed=(),
                nothing_to_do=True,
            )
        self.folder = self.repo.root / "runs" / self.run
        self.scratch = self.folder / "scratch"
        self.ledger = Ledger(self.folder)
        last = last_sequence(self.folder / "events.jsonl")
        self.bus = Bus(self.run, self._listeners, ledger=self.ledger, first_seq=last + 1)
        stage = "start"
        try:
            self._open()
            stage = "isr"
            done = self._units()
            stage = "reduce"
            products = [
                product
                for group in self.plan.groups
                if (product := self._reduce(group, done)) is not None
            ]
            self._close(products, time.perf_counter() - started)
        except BaseException as error:
            self._fail(error, stage)
            raise
        finally:
            self.ledger.close()
        result = RunResult(
            run=self.run,
            products=tuple(products),
            failed=tuple(f"{unit}: {reason}" for unit, reason in self.failed.items()),
            skipped=self.skipped,
            seconds=time.perf_counter() - started,
        )
        if len(products) < len(self.plan.groups):
            raise UnitsFailed(
                f"{len(self.failed)} of {self.plan.n_units} units failed, more than --max-failed "
                f"{self.options.max_failed} allows; {len(products)} of {len(self.plan.groups)} "
                f"products were made. First: {result.failed[0]}",
                "Mend or leave out the bad exposures, then run again with --resume.",
            )
        return result

    def _finished_before(self) -> bool:
        return any(row.status == "done" for row in self.repo.runs(run=self.run))

    def _open(self) -> None:
        plan = self.plan
        self.repo.start_run(
            RunRecord(
                run=self.run,
                kind="build",
                calibration=plan.calibration,
                instrument=plan.instrument,
                command=self.options.command,
                user=getpass.getuser(),
                host=socket.gethostname(),
                started=times.now_tai(),
                details={
                    "plan_digest": plan.digest(),
                    "config_digest": plan.config_digest,
                    "plugins": self.catalog.used(),
                    "inputs": list(plan.inputs),
                },
            )
        )
        self.repo.chain(self.options.output, [self.run], mode="prepend")
        self.ledger.write("plan.json", plan)
        self.ledger.write("config.json", self.prepared.settings.as_dict())
        self.bus.emit(
            RunStarted(
                calibration=plan.calibration,
                plugins=self.catalog.used(),
                config_digest=plan.config_digest,
                inputs=list(plan.inputs),
                n_exposures=len(plan.exposures()),
                n_units=plan.n_units,
            ),
            instrument=plan.instrument,
        )
        self.bus.emit(ConfigResolved(values=self.prepared.settings.as_dict()))
        for exposure, reason in plan.rejected:
            self.bus.emit(
                ExposureRejected(reason=reason), instrument=plan.instrument, exposure=exposure
            )

    def _tasks(self) -> list[Task]:
        return [
            make_task(self.plan, self.prepared, group, unit, self.scratch)
            for group in self.plan.groups
            for unit in group.units
        ]

    def _units(self) -> dict[str, dict[str, Any]]:
        """Do every unit that is not done yet; return what each measured, by unit."""
        measured: dict[str, dict[str, Any]] = {}
        todo = []
        for task in self._tasks():
            earlier = (
                scratch.finished(Path(task.frame), task.key, with_frame=task.keep_frame)
                if task.frame
                else None
            )
            if earlier is None:
                todo.append(task)
                continue
            measured[task.unit] = earlier
            self.skipped += 1
            self.bus.emit(UnitSkipped(unit=task.unit, kind="isr", reason="done before"))
        with contextlib.closing(
            work_through(todo, self.catalog, self.options.jobs, self.options.executor)
        ) as answers:
            for done in answers:
                self._note(done, len(todo))
                if not done.error:
                    measured[done.unit] = dict(done.measured)
                elif done.exit_code == RepositoryError.exit_code:
                    # A full disk is not the exposure's fault: no master without it.
                    raise RepositoryError(done.error, done.next_step)
                elif self.options.fail_fast:
                    raise UnitsFailed(
                        f"{done.unit}: {done.error}",
                        done.next_step or "Leave the exposure out, or run without --fail-fast.",
                    )
        return measured

    def _note(self, done: Done, total: int) -> None:
        """Re-emit what happened in a worker, and how the unit ended."""
        self._done += 1
        if done.error:
            self.failed[done.unit] = done.error
        tell(self.bus, done, self.plan.instrument, "isr", self._done, total)

    # ---- one product --------------------------------------------------------------------------
    def _reduce(self, group: Group, measured: Mapping[str, dict[str, Any]]) -> Any:
        """Make the product of one group; None when too many of its exposures failed.

        A run that broke off after a product was registered keeps that product.
        """
        made = self._made(group)
        if made is not None:
            unit = f"{self.plan.instrument}/{group.label}"
            self.bus.emit(UnitSkipped(unit=unit, kind="reduce", reason="done before"))
            return made
        tasks = [t for t in self._tasks() if in_group(t, group)]
        good = [task for task in tasks if task.unit in measured]
        failed = len(tasks) - len(good)
        if failed > allowed_failures(self.options.max_failed, len(tasks)) or not good:
            return None
        where: dict[str, Any] = {
            "instrument": self.plan.instrument,
            "detector": group.detector,
        }
        detector = self.prepared.instrument.camera.detector(group.detector)
        units = {unit.info.exposure: unit for unit in group.units}
        used = [units[task.info.exposure] for task in good]
        refs = common_calibs(used)
        context = UnitContext(
            catalog=self.catalog,
            calibration=self.recipe,
            options=good[0].options,
            camera=self.prepared.instrument.camera,
            detector=detector,
            calibs=FoundCalibs(refs, ProductCache()),
            emit=lambda event: self._emit(event, where),
            seed=seed_of(group.label),
            scratch=self.scratch,
            settings=self.prepared.settings,
            workers=self.options.jobs,
        )
        exposures = StoredExposures(
            [Path(task.frame) for task in good if task.keep_frame], detector
        )
        numbers = [measured[task.unit] for task in good]
        started = time.perf_counter()
        work = Work(
            kind="reduce",
            name=self.recipe.name,
            run=lambda: self.recipe.reduce(numbers, exposures, context),
        )
        try:
            product: Product = self.catalog.execute(work, context)
        except (CpplugError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(
                f"Calibration {self.recipe.name} broke while it was made for {group.label}: "
                f"{type(error).__name__}: {error}.",
                f"Tell its author; the traceback is in {self.folder / 'traceback.txt'}.",
            ) from error
        if isinstance(product, ImageProduct) and product.mask.shape == detector.shape:
            warn_unusable(
                f"the {self.recipe.name} of {group.label}",
                unusable_amplifiers(detector, product.mask),
            )
        row = self._register(group, used, product, failed)
        self.bus.emit(
            UnitFinished(
                unit=f"{self.plan.instrument}/{group.label}",
                kind="reduce",
                seconds=time.perf_counter() - started,
                done=1,
                total=1,
                peak_mb=_peak_mb(),
            ),
            **where,
        )
        return row

    def _data_id(self, group: Group) -> DataId:
        return DataId(
            instrument=self.plan.instrument,
            detector=group.detector,
            physical_filter=group.physical_filter,
        )

    def _made(self, group: Group) -> Any:
        """Return the product of a group that this run registered before it broke off, or None."""
        rows = self.repo.datasets(self.recipe.name, [self.run])
        return next((row for row in rows if row.data_id == self._data_id(group)), None)

    def _emit(self, event: Event, where: Mapping[str, Any]) -> None:
        self.bus.emit(event, **where)

    def _register(self, group: Group, used: Sequence[Unit], product: Product, failed: int) -> Any:
        """Write the product to disk, then its row in one transaction."""
        plan = self.plan
        identity = str(uuid.uuid4())
        data_id = self._data_id(group)
        stem = "_".join(
            part.replace("/", "-").replace(" ", "_")
            for part in (
                plan.calibration,
                plan.instrument,
                group.detector_name,
                group.physical_filter,
                Path(self.run).name,
            )
            if part
        )
        relative = Path("datasets") / self.run / plan.calibration / f"{stem}.fits"
        provenance = provenance_of(self, group, used, failed)
        cards = product_cards(
            identity, plan, self.run, data_id, used, provenance, self.prepared.instrument
        )
        sha256, size = write_product(self.repo.root / relative, product, cards)
        record = DatasetRecord(
            id=identity,
            dataset_type=plan.calibration,
            run=self.run,
            data_id=data_id,
            path=str(relative),
            sha256=sha256,
            size=size,
            created=times.now_tai(),
            is_calibration=True,
            provenance=provenance,
        )
        self.repo.add_datasets([record])
        self.bus.emit(
            ProductWritten(
                dataset=identity,
                dataset_type=plan.calibration,
                path=str(relative),
                sha256=sha256,
                dims={
                    "instrument": plan.instrument,
                    "detector": group.detector,
                    **({"physical_filter": group.physical_filter} if group.physical_filter else {}),
                },
            ),
            instrument=plan.instrument,
            detector=group.detector,
        )
        return self.repo.dataset(identity)

    # ---- the end ------------------------------------------------------------------------------
    def _close(self, products: Sequence[Any], seconds: float) -> None:
        complete = len(products) == len(self.plan.groups)
        summary = {
            "run": self.run,
            "calibration": self.plan.calibration,
            "products": [row.id for row in products],
            "n_units": self.plan.n_units,
            "failed": self.failed,
            "rejected": {str(number): reason for number, reason in self.plan.rejected},
            "skipped": self.skipped,
            "seconds": seconds,
        }
        self.ledger.write("summary.json", summary)
        if complete:
            self.bus.emit(
                RunFinished(
                    seconds=seconds,
                    products=[row.id for row in products],
                    n_failed=len(self.failed),
                ),
                instrument=self.plan.instrument,
            )
        else:
            self.bus.emit(
                RunFailed(error=f"{len(self.failed)} units failed", stage="isr"),
                instrument=self.plan.instrument,
            )
        self.repo.finish_run(self.run, "done" if complete else "failed", summary)
        if complete and not self.options.keep_scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _fail(self, error: BaseException, stage: str) -> None:
        """Leave a true record behind, whatever else is broken."""
        text = str(error) or type(error).__name__
        status = "interrupted" if isinstance(error, KeyboardInterrupt | GeneratorExit) else "failed"
        try:
            self.bus.emit(RunFailed(error=text, stage=stage), instrument=self.plan.instrument)
            if not isinstance(error, CpplugError) or error.__cause__ is not None:
                trace = "".join(traceback.format_exception(error))
                (self.folder / "traceback.txt").write_text(trace, encoding="utf-8")
        except (CpplugError, OSError):
            pass
        with contextlib.suppress(CpplugError):
            self.repo.finish_run(self.run, status, {"error": text, "stage": stage})


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
