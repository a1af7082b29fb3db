"""Runs a chain of instrument signature removal steps on one exposure.

The order is the planner's; this module only checks that the border between amplifiers and the
assembled detector is crossed once, runs every enabled step through ``cpplug_execute`` (so that
wrappers can watch), and reports each step and each number it measured as an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from cpplug.api.context import Calibs
from cpplug.api.errors import ConfigError, CpplugError, DataError, PluginError
from cpplug.api.events import Event, MeasurementRecorded, StepFinished, StepSkipped
from cpplug.api.exposure import Exposure, RawExposure
from cpplug.api.records import Frame, IsrStep, PlannedStep, Work
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


def put_in_front(error: CpplugError, text: str) -> None:
    """Say in front of an error's message where it happened."""
    error.message = f"{text}{error.message}"
    error.args = (error.message, error.next_step)


def run_chain(
    frame: RawExposure,
    planned: Sequence[PlannedStep],
    calibs: Calibs,
    executor: Executor,
    emit: Callable[[Event], None],
    beside: Callable[[int], Calibs] | None = None,
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
    beside
        Gives the calibrations for the step of this number in ``planned``, where its record says
        that it looks at other detectors; default: ``calibs``.

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
    current = run_steps(frame, planned, calibs, executor, emit, beside)
    if not isinstance(current, Exposure):
        raise DataError("The chain ended before the amplifiers were assembled.")
    return current


def run_steps(
    frame: RawExposure,
    planned: Sequence[PlannedStep],
    calibs: Calibs,
    executor: Executor,
    emit: Callable[[Event], None],
    beside: Callable[[int], Calibs] | None = None,
) -> Frame:
    """Run a chain, or the first steps of one; arguments and errors of :func:`run_chain`."""
    current: Any = frame
    reported = 0
    for number, step in enumerate(planned):
        if not step.enabled:
            emit(StepSkipped(step=step.name, reason=f"switched off ({step.source})"))
            continue
        record: IsrStep = executor.get("isr_step", step.name)
        config = build(record.config, step.options)
        offered = beside(number) if beside is not None and record.siblings else calibs
        work = partial(record.apply, current, config, offered)
        started = time.perf_counter()
        try:
            current = executor.execute(Work(kind="isr_step", name=step.name, run=work), None)
        except CpplugError as error:
            put_in_front(error, f"Step {step.name}: ")
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
    return current
