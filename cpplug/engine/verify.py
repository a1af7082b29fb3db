"""Verifies a product: applies it to exposures, measures what is left, and gives verdicts.

The candidate is the first product of its type in the input collections, and every residual is made
with exactly that file. Exposures that went into it are marked as members. Workers measure; the
driver judges, because the limits depend on how many comparisons the whole run makes. Rows go to the
registry, ``summary.json`` to the run's folder, one event per product to the ledger.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cpplug.api import times
from cpplug.api.context import Evidence, FrameEvidence, ProductFacts
from cpplug.api.errors import CalibrationMissing, ConfigError, CpplugError, DataError
from cpplug.api.events import (
    CheckEvaluated,
    ConfigResolved,
    RunFailed,
    RunStarted,
    VerifyFinished,
)
from cpplug.api.records import Calibration, Check, Verifier, Work
from cpplug.engine import rollup
from cpplug.engine.failures import tell
from cpplug.engine.files import sha256_of
from cpplug.engine.gate import Waiver, as_waiver, with_waivers
from cpplug.engine.ledger import Ledger
from cpplug.engine.names import new_run
from cpplug.engine.plan import Group, Plan, Request, Unit, default_inputs, make_plan
from cpplug.engine.products import check_unchanged, read_product
from cpplug.engine.profiles import Profile, load_profile
from cpplug.engine.tasks import make_task
from cpplug.engine.units import Done, Task
from cpplug.engine.workers import work_through
from cpplug.host.bus import Bus
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRow, RunRecord, VerificationRecord

Listeners = Callable[[], list[tuple[str, Callable[..., None]]]]


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a verification is carried out."""

    output: str = ""
    user: str = ""
    jobs: int = 1
    executor: str = ""
    """Name of an executor plugin; empty for the default."""
    profile: str = "strict"
    bootstrap: bool = False
    """Trust the measured read noise, not the camera's."""
    command: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found."""

    run: str
    verdict: str
    banner: str
    table: list[dict[str, Any]]
    columns: list[str]
    summary: dict[str, Any]


def candidates(
    repo: Repository, catalog: Catalog, request: Request, *, fallback: str
) -> tuple[dict[int, DatasetRow], Request]:
    """Find the product under test, by detector, and complete the request's inputs.

    Parameters
    ----------
    repo, catalog, request
        Where, with what, and what was asked.
    fallback
        Beginning of the output chain's name when no inputs were named: ``u/USER/``.

    Raises
    ------
    CalibrationMissing
        When no detector has a candidate.
    """
    recipe: Calibration = catalog.find_calibration(request.calibration)
    instrument = catalog.get("instrument", request.instrument)
    inputs = request.inputs
    if not inputs:
        chain = f"{fallback}{recipe.name}Gen"
        first = (chain,) if any(row.name == chain for row in repo.collections(chain)) else ()
        inputs = (*first, *default_inputs(repo, instrument.name))
    keys = [int(key) if key.isdigit() else key for key in request.detectors]
    detectors = [instrument.camera.detector(key) for key in keys] or list(instrument.camera)
    found: dict[int, DatasetRow] = {}
    trace = ""
    for detector in detectors:
        try:
            hit = repo.find(recipe.name, DataId(instrument.name, detector.id), inputs, None)
        except CalibrationMissing as error:
            trace = error.message
            continue
        found[detector.id] = hit.dataset
    if not found:
        raise CalibrationMissing(
            f"{', '.join(inputs) or 'The repository'} holds no {recipe.name} to verify. {trace}",
            f"Build one with `cpplug run {recipe.name}`, or name its run with --input.",
        )
    return found, msgspec.structs.replace(request, inputs=inputs)


class Verification:
    """One verification run, from plan to verdict."""

    def __init__(
        self,
        repo: Repository,
        catalog: Catalog,
        request: Request,
        candidate: Mapping[int, DatasetRow],
        options: VerifyOptions,
        listeners: Listeners,
    ) -> None:
        self.repo = repo
        self.catalog = catalog
        self.candidate = dict(candidate)
        if options.executor:
            catalog.get("executor", options.executor)  # an unknown one stops us here
        for row in self.candidate.values():
            check_unchanged(repo.root / row.path, row.sha256, f"{row.dataset_type} {row.id}")
        self.options = options
        self._listeners = listeners
        self.overrides = (*request.overrides, *(f"-C {path}" for path in request.option_files))
        self.prepared = make_plan(repo, catalog, request, candidate=candidate)
        self.plan: Plan = self.prepared.plan
        self.recipe: Calibration = self.prepared.recipe
        self._check_applied()
        self.profile: Profile = load_profile(
            options.profile, catalog.names("verifier"), bootstrap=options.bootstrap
        )
        self.verifiers = tuple(name for name in self.recipe.verify if name in self.profile.tests)
        if not self.verifiers:
            raise DataError(
                f"Profile {self.profile.name} has no test of {self.recipe.name}.",
                "Choose another --profile.",
            )
        self._provenance = {
            detector: repo.provenance(row.id) for detector, row in self.candidate.items()
        }
        self._done = 0

    def _check_applied(self) -> None:
        """Refuse a chain that leaves the candidate out: its residuals say nothing of it."""

        def applies(step: str) -> bool:
            return self.recipe.name in self.catalog.get("isr_step", step).needs

        off = self.recipe.verify_isr_off
        meant = [name for name in self.recipe.verify_isr if name not in off and applies(name)]
        if meant and not any(step.enabled and applies(step.name) for step in self.plan.steps):
            raise ConfigError(
                f"The {self.recipe.name} under test would not be applied: step {meant[0]!r} is "
                "switched off or left out.",
                f"Keep it on (-c isr:do_{meant[0]}=True), and in isr.steps if that is set.",
            )

    # ---- the run ------------------------------------------------------------------------------
    def carry_out(self) -> Outcome:
        """Measure, judge, store.

        Raises
        ------
        CpplugError
            When the repository cannot be written or a product cannot be read.
        """
        started = time.perf_counter()
        name = self.recipe.name
        output = self.options.output or (
            f"u/{self.options.user}/verify{name[:1].upper()}{name[1:]}"
        )
        listeners = self._listeners()
        self.run = new_run(self.repo, output, self.options.command)
        self.folder = self.repo.root / "runs" / self.run
        self.ledger = Ledger(self.folder)
        self.bus = Bus(self.run, listeners, ledger=self.ledger)
        try:
            self._open(output)
            frames = self._measure()
            outcome = self._judge(frames, time.perf_counter() - started)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self.ledger.close()
        return outcome

    def _open(self, output: str) -> None:
        name = self.recipe.name
        self.repo.start_run(
            RunRecord(
                run=self.run,
                kind="verify",
                calibration=name,
                instrument=self.plan.instrument,
                started=times.now_tai(),
                command=self.options.command,
                user=self.options.user,
                host=socket.gethostname(),
                details={
                    "profile": self.profile.name,
                    "profile_sha256": self.profile.sha256,
                    "config_digest": self.plan.config_digest,
                    "candidates": {str(d): row.id for d, row in self.candidate.items()},
                },
            )
        )
        self.repo.chain(output, [self.run], mode="prepend")
        self.ledger.write("plan.json", self.plan)
        self.ledger.write("config.json", self.prepared.settings.as_dict())
        self.bus.emit(
            RunStarted(
                calibration=f"verify {name}",
                plugins=self.catalog.used(),
                config_digest=self.plan.config_digest,
                inputs=list(self.plan.inputs),
                n_exposures=len(self.plan.exposures()),
                n_units=self.plan.n_units,
            ),
            instrument=self.plan.instrument,
        )
        self.bus.emit(ConfigResolved(values=self.prepared.settings.as_dict()))

    def _members(self, detector: int) -> frozenset[int]:
        inputs = self._provenance[detector].get("inputs", [])
        return frozenset(int(item["exposure"]) for item in inputs)

    def _tasks(self) -> list[Task]:
        members = {group.detector: self._members(group.detector) for group in self.plan.groups}

        def membership(group: Group, unit: Unit) -> str:
            return "member" if unit.info.exposure in members[group.detector] else "independent"

        return [
            make_task(
                self.plan,
                self.prepared,
                group,
                unit,
                None,
                verifiers=self.verifiers,
                membership=membership(group, unit),
            )
            for group in self.plan.groups
            for unit in group.units
        ]

    def _measure(self) -> dict[int, list[FrameEvidence]]:
        """Return what was measured, by detector; an exposure that failed is kept as such."""
        tasks = self._tasks()
        by_unit = {task.unit: task for task in tasks}
        frames: dict[int, list[FrameEvidence]] = {}
        with contextlib.closing(
            work_through(tasks, self.catalog, self.options.jobs, self.options.executor)
        ) as answers:
            for done in answers:
                self._note(done, len(tasks))
                task = by_unit[done.unit]
                evidence = done.evidence or FrameEvidence(
                    exposure=done.exposure,
                    mjd=times.to_mjd(task.info.middle),
                    membership=task.membership,
                    values={},
                    error=done.error,
                )
                frames.setdefault(done.detector, []).append(evidence)
        return {d: sorted(found, key=lambda f: f.exposure) for d, found in frames.items()}

    def _note(self, done: Done, total: int) -> None:
        self._done += 1
        tell(self.bus, done, self.plan.instrument, "verify", self._done, total)

    # ---- verdicts -----------------------------------------------------------------------------
    def _facts(self, detector: int) -> ProductFacts:
        row = self.candidate[detector]
        product = read_product(self.repo.root / row.path)
        members = self._members(detector)
        config = self._provenance[detector].get("config", {})
        return ProductFacts(
            dataset=row.id,
            sha256=row.sha256,
            dataset_type=row.dataset_type,
            unit=getattr(product, "unit", ""),
            n_inputs=len(members),
            members=tuple(sorted(members)),
            metadata=product.metadata,
            options={path: value[0] for path, value in config.items()},
        )

    def _checks(
        self, group: Group, facts: ProductFacts, frames: list[FrameEvidence], comparisons: int
    ) -> list[Check]:
        detector = self.prepared.instrument.camera.detector(group.detector)
        options: dict[str, Any] = {"alpha_family": self.profile.alpha_family}
        # Of the correction's options only this one concerns the tests: which noise is trusted.
        trusted = ".empirical_read_noise"
        values = self.prepared.settings.values
        options["empirical_read_noise"] = any(
            path.endswith(trusted) and value.value for path, value in values.items()
        )
        if self.options.bootstrap:
            options["bootstrap"] = True
        rows: list[Check] = []
        for name in self.verifiers:
            verifier: Verifier = self.catalog.get("verifier", name)
            evidence = Evidence(
                test=name,
                product=facts,
                detector=detector,
                frames=tuple(frames),
                threshold=self.profile.tests[name],
                n_comparisons=comparisons,
                min_independent=self.profile.min_independent,
                min_good_fraction=self.profile.min_good_fraction,
                options=options,
            )

            def work(verifier: Verifier = verifier, evidence: Evidence = evidence) -> list[Check]:
                return rollup.evaluate(verifier, evidence)

            rows += self.catalog.execute(Work(kind="verify", name=name, run=work), None)
        return rows

    def _judge(self, frames: Mapping[int, list[FrameEvidence]], seconds: float) -> Outcome:
        camera = self.prepared.instrument.camera
        comparisons = sum(
            len(found) * len(camera.detector(d).amplifiers) for d, found in frames.items()
        )
        by_product: list[tuple[DatasetRow, list[rollup.Row]]] = []
        for group in self.plan.groups:
            found = frames.get(group.detector, [])
            facts = self._facts(group.detector)
            candidate = self.candidate[group.detector]
            checks = self._checks(group, facts, found, max(comparisons, 1))
            rows = rollup.make_rows(
                checks,
                run_id=self.run,
                profile=self.profile,
                product=facts,
                built=times.format_time(candidate.created, "utc"),
                mjd={frame.exposure: frame.mjd for frame in found},
            )
            rows = with_waivers(rows, self._waivers(), times.now_tai())
            self._announce(group, checks)
            by_product.append((candidate, rows))
        everything = [row for _, rows in by_product for row in rows]
        rollup.write_rows(self.folder / "checks.jsonl", everything)
        evidence = sha256_of(self.folder / "checks.jsonl")
        summary = rollup.summary(everything)
        summary["seconds"] = seconds
        rollup.write_summary(self.folder / "summary.json", summary)
        self.repo.add_checks(self.run, [rollup.row_dict(row) for row in everything])
        for candidate, rows in by_product:
            self._record(candidate, rows, evidence)
        self.repo.finish_run(self.run, "done", {"verdict": summary["verdict"]})
        table, columns = rollup.terminal_table(summary)
        return Outcome(
            run=self.run,
            verdict=summary["verdict"],
            banner=f"{rollup.banner(summary)} [{self.profile.name}, {self.run}]{self._said()}",
            table=table,
            columns=columns,
            summary=summary,
        )

    def _waivers(self) -> list[Waiver]:
        kept = self.repo.waivers(
            instrument=self.plan.instrument, dataset_type=self.recipe.name, at=times.now_tai()
        )
        return [as_waiver(item) for item in kept]

    def _said(self) -> str:
        """Return the options that the user set for this verification, for the banner."""
        return f" with {', '.join(self.overrides)}" if self.overrides else ""

    def _announce(self, group: Group, checks: list[Check]) -> None:
        """Emit one event per verdict."""
        for check in checks:
            scope = "/".join(part for part in (check.detector, check.amplifier) if part)
            self.bus.emit(
                CheckEvaluated(
                    check=check.test,
                    scope=scope,
                    value=rollup.plain(check.value),
                    error=rollup.plain(check.error),
                    expected=rollup.plain(check.expected),
                    tolerance=check.tolerance,
                    unit=check.unit,
                    verdict=check.verdict,
                ),
                instrument=self.plan.instrument,
                detector=group.detector,
                exposure=check.exposure,
            )

    def _record(self, candidate: DatasetRow, rows: list[rollup.Row], evidence: str) -> None:
        """Store the verdict on one product: what certification asks for."""
        verdict = rollup.verdict_of(rows)
        counts = rollup.counts_of(rows)
        independent = {
            row.exposure for row in rows if row.exposure is not None and row.membership != "member"
        }
        self.repo.add_verification(
            VerificationRecord(
                verify_run=self.run,
                dataset=candidate.id,
                product_sha256=candidate.sha256,
                dataset_type=candidate.dataset_type,
                instrument=self.plan.instrument,
                profile=self.profile.name,
                profile_sha256=self.profile.sha256,
                verdict=verdict,
                counts=counts,
                n_independent=len(independent),
                finished=times.now_tai(),
                evidence_sha256=evidence,
                details={"overrides": list(self.overrides)} if self.overrides else {},
            )
        )
        self.bus.emit(
            VerifyFinished(
                dataset=candidate.id,
                product_sha256=candidate.sha256,
                profile=self.profile.name,
                verdict=verdict,
                counts=counts,
            ),
            instrument=self.plan.instrument,
            detector=candidate.data_id.detector,
        )

    def _fail(self, error: BaseException) -> None:
        """Leave a true record behind."""
        text = str(error) or type(error).__name__
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with contextlib.suppress(CpplugError):
            self.bus.emit(RunFailed(error=text, stage="verify"), instrument=self.plan.instrument)
        with contextlib.suppress(CpplugError):
            self.repo.finish_run(self.run, status, {"error": text})
