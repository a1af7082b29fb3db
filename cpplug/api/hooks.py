"""The hooks of cpplug, in the order in which a run meets them.

Policy. Arguments are only ever added, with a default. A removal is announced with
``warn_on_impl_args`` for two minor releases. A new hook ships with a built-in that uses it, an
example, a test named after it and a heading in ``docs/reference/hooks.md``. ``API_VERSION`` rises
when an existing plugin could break; a plugin states the version it was written for as
``CPPLUG_API`` in its module (1 if it says nothing).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from cpplug.api.context import Context
    from cpplug.api.events import Envelope
    from cpplug.api.instrument import Instrument
    from cpplug.api.records import (
        Calibration,
        Combiner,
        IsrStep,
        PlanView,
        Problem,
        Solver,
        Verifier,
        Work,
    )

API_VERSION = 1
PROJECT = "cpplug"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks(Protocol):
    """Every hook; the docstring says what it returns and when it is called."""

    # ---- when the plugin is loaded: what it offers -------------------------------------------
    @hookspec
    def cpplug_instruments(self) -> Iterable[Instrument]:
        """Yield the cameras this plugin can read. Called once, when the plugin is loaded."""

    @hookspec
    def cpplug_isr_steps(self) -> Iterable[IsrStep]:
        """Yield corrections of the instrument signature. Called once, when the plugin is loaded."""

    @hookspec
    def cpplug_combiners(self) -> Iterable[Combiner]:
        """Yield ways to collapse a stack. Called once, when the plugin is loaded."""

    @hookspec
    def cpplug_solvers(self) -> Iterable[Solver]:
        """Yield fits, named ``family/name``. Called once, when the plugin is loaded."""

    @hookspec
    def cpplug_calibrations(self) -> Iterable[Calibration]:
        """Yield the calibrations this plugin can build. Called once, when the plugin is loaded."""

    @hookspec
    def cpplug_verifiers(self) -> Iterable[Verifier]:
        """Yield tests of calibrations. Called once, when the plugin is loaded."""

    # ---- when a run is planned --------------------------------------------------------------
    @hookspec
    def cpplug_check_plan(self, plan: PlanView) -> Iterable[Problem]:
        """Object to a plan before a pixel is read. All answers are collected; an error stops it."""

    # ---- while it runs ----------------------------------------------------------------------
    @hookspec(firstresult=True)
    def cpplug_execute(self, work: Work, context: Context[Any] | None) -> object:
        """Do one unit of work. Outside the core only wrappers may; they never hide an error."""

    @hookspec
    def cpplug_event(self, event: Envelope) -> None:
        """Observe that something happened. An error in here is reported and hurts nobody else."""
