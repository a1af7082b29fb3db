"""Runs a chain of instrument signature removal steps on one exposure.

The order is the planner's; this module only checks that the border between amplifiers and the
assembled detector is crossed once, runs every enabled step through ``cpplug_execute`` (so that
wrappers can watch), and reports each step and each number it measured as an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cpplug.api.context import Calibs
from cpplug.api.errors import ConfigError, CpplugError, DataError, PluginError
from cpplug.api.events import Event, MeasurementRecorded, StepFinished, StepSkipped
from cpplug.api.exposure import Exposure, RawExposure
from cpplug.api.records import IsrStep, PlannedStep, Work
from cpplug.engine.settings import build


class Executor(Protocol):
    """What this module needs of the catalog: steps by name, and one way to do work."""

    def get(self, kind: str, name: str) -> Any:
        """Return the record of this kind and name."""

    def execute(self, work: Work, context: Any) -> Any:
        """Do one unit of work, with whoever wraps it."""


def check_chain(steps: Sequence[IsrStep]) -> None:
    """Refuse a chain that cannot work.

    Raises
    ------
    ConfigError
        When a detector step stands before assembly, an amplifier step after it, a step precedes one
        that it must follow, or assembly is missing or doubled.
    """
    seen: list[str] = []
    assembled = False
    names = [step.name for step in steps]
    for step in steps:
        if step.assembles:
            if assembled:
                raise ConfigError(f"Step {step.name!r} would assemble a second time.")
            assembled = True
        elif step.level != "any" and (step.level == "detector") != assembled:
            side = "after" if assembled else "before"
            raise ConfigError(
                f"Step {step.name!r} works on {step.level}s but stands {side} assembly.",
                "Move it in the recipe, or switch it off with -c isr:do_...=False.",
            )
        for earlier in step.after:
            if earlier in names and earlier not in seen:
                raise ConfigError(f"Step {step.name!r} must stand after {earlier!r}.")
        seen.append(step.name)
    if not assembled:
        raise ConfigError(
            "The chain never assembles the amplifiers.",
            "Keep the assembly step switched on: -c isr:do_assemble=True.",
        )


def run_chain(
    frame: RawExposure,
    planned: Sequence[PlannedStep],
    calibs: Calibs,
    executor: Executor,
    emit: Callable[[Event], None],
) -> Exposure:
    """Correct one exposure.

    Parameters
    ----------
    frame
        As read; it is changed in place.
    planned
        Steps in order, with switches and options.
    calibs
        The calibrations found for this exposure.
    executor
        The plugin catalog.
    emit
        Told what happened.

    Returns
    -------
    Exposure
        The assembled, corrected exposure.

    Raises
    ------
    CpplugError
        Whatever a step raises on purpose, with the step's name in front.
    PluginError
        When a step breaks.
    """
    current: Any = frame
    reported = 0
    for step in planned:
        if not step.enabled:
            emit(StepSkipped(step=step.name, reason=f"switched off ({step.source})"))
            continue
        record: IsrStep = executor.get("isr_step", step.name)
        config = build(record.config, step.options)
        started = time.perf_counter()

        def work(record: IsrStep = record, config: Any = config, given: Any = current) -> Any:
            return record.apply(given, config, calibs)

        try:
            current = executor.execute(Work(kind="isr_step", name=step.name, run=work), None)
        except CpplugError as error:
            error.message = f"Step {step.name}: {error.message}"
            error.args = (error.message, error.next_step)
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise PluginError(
                f"Step {step.name} broke: {type(error).__name__}: {error}.",
                f"Tell its author (cpplug plugins show {step.name}), or leave it out: "
                f"-c isr:do_{step.name}=False.",
            ) from error
        emit(StepFinished(step=step.name, seconds=time.perf_counter() - started))
        for item in current.measurements[reported:]:
            emit(
                MeasurementRecorded(
                    quantity=item.name, value=item.value, unit=item.unit, scope=item.scope
                )
            )
        reported = len(current.measurements)
    if not isinstance(current, Exposure):
        raise DataError("The chain ended before the amplifiers were assembled.")
    return current
