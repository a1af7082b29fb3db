"""Every hook once, through the catalog, as a plugin author meets it."""

import types

import numpy as np
import pytest

from cpplug.api import (
    Calibration,
    Combiner,
    ExposureQuery,
    Instrument,
    IsrStep,
    Plane,
    PlanView,
    PluginError,
    Problem,
    Solution,
    Solver,
    Verifier,
    Work,
    hookimpl,
)
from cpplug.api.events import RunFinished
from cpplug.host.bus import Bus
from cpplug.host.catalog import Catalog

PLAN = PlanView(
    calibration="bias", instrument="x", steps=(), exposures=(1,), detectors=(0,), options={}
)


def module_with(name="t_hooks", **functions):
    module = types.ModuleType(name)
    for hook, function in functions.items():
        setattr(module, hook, function)
    return module


def offered(catalog, kind, name, hook, record):
    catalog.add_module(module_with(**{hook: hookimpl(lambda: [record])}))
    found = catalog.get(kind, name)
    assert found is record
    return found


def test_hook_instruments(cp_catalog):
    class Cam(Instrument):
        name = "Cam"

    assert offered(cp_catalog, "instrument", "Cam", "cpplug_instruments", Cam()).name == "Cam"


def test_hook_isr_steps(cp_catalog):
    step = IsrStep(
        name="double", summary="s", level="detector", apply=lambda frame, config, calibs: frame * 2
    )
    found = offered(cp_catalog, "isr_step", "double", "cpplug_isr_steps", step)
    assert found.apply(np.float32(2), found.config(), None) == 4


def test_hook_combiners(cp_catalog):
    def first(block, config):
        return Plane(
            image=block.images[0], variance=block.images[0] * 0, mask=block.masks[0], used=None
        )

    combiner = Combiner(name="first", summary="s", combine=first)
    assert offered(cp_catalog, "combiner", "first", "cpplug_combiners", combiner).combine is first


def test_hook_solvers(cp_catalog):
    solver = Solver(
        name="line/mean",
        summary="s",
        solve=lambda data, config: Solution(parameters={"mean": float(np.mean(data["y"]))}),
    )
    found = offered(cp_catalog, "solver", "line/mean", "cpplug_solvers", solver)
    assert found.solve({"y": [1, 3]}, None).parameters == {"mean": 2.0}


def test_hook_calibrations(cp_catalog):
    recipe = Calibration(
        name="c", summary="s", inputs=ExposureQuery(), isr=(), reduce=lambda m, e, c: None
    )
    offered(cp_catalog, "calibration", "c", "cpplug_calibrations", recipe)
    assert cp_catalog.find_calibration("C") is recipe


def test_hook_verifiers(cp_catalog):
    verifier = Verifier(
        name="c.v", summary="s", applies_to="c", scope="detector", check=lambda evidence: []
    )
    offered(cp_catalog, "verifier", "c.v", "cpplug_verifiers", verifier)


def test_hook_check_plan(cp_catalog):
    def objecting(name, text):
        def cpplug_check_plan(plan):
            return [Problem(severity="error", message=f"{text} {plan.calibration}")]

        return module_with(name, cpplug_check_plan=hookimpl(cpplug_check_plan))

    cp_catalog.add_module(objecting("t_b", "no"))
    cp_catalog.add_module(objecting("t_a", "never"))
    answers = cp_catalog.check_plan(PLAN)
    assert [(who, problem.message) for who, problem in answers] == [
        ("t_a", "never bias"),
        ("t_b", "no bias"),
    ]


def test_check_plan_that_fails_stops_the_run(cp_catalog):
    def cpplug_check_plan(plan):
        raise RuntimeError("cannot look")

    cp_catalog.add_module(module_with("t_a", cpplug_check_plan=hookimpl(cpplug_check_plan)))
    with pytest.raises(PluginError, match="t_a failed in cpplug_check_plan"):
        cp_catalog.check_plan(PLAN)


def wrapping(name, seen):
    def cpplug_execute(work):
        seen.append(f"{name} before {work.name}")
        result = yield
        seen.append(f"{name} after")
        return result

    return module_with(f"t_{name}", cpplug_execute=hookimpl(wrapper=True)(cpplug_execute))


def test_hook_execute(cp_catalog):
    seen = []
    cp_catalog.add_module(wrapping("timer", seen))
    work = Work(kind="combine", name="mean", run=lambda: seen.append("work") or 7)
    assert cp_catalog.execute(work, None) == 7
    assert seen == ["timer before mean", "work", "timer after"]


def test_execute_passes_errors_and_nothing(cp_catalog):
    assert cp_catalog.execute(Work(kind="solve", name="n", run=lambda: None), None) is None
    with pytest.raises(ZeroDivisionError):
        cp_catalog.execute(Work(kind="solve", name="n", run=lambda: 1 / 0), None)


def test_installed_wrapper_and_listener_wait_to_be_named(install):
    code = """
    from cpplug.api import hookimpl
    seen = []
    told = {}
    def configure(options):
        told.update(options)
    @hookimpl
    def cpplug_event(event):
        seen.append(event.event)
    @hookimpl(wrapper=True)
    def cpplug_execute(work):
        return (yield) + 1
    """
    install("t_amb", code, {"cpplug.listener": {"amb": "t_amb"}})
    work = Work(kind="solve", name="n", run=lambda: 1)
    silent = Catalog()
    assert silent.execute(work, None) == 1
    assert silent.listeners() == []
    named = Catalog(ambient=["amb"])
    assert named.execute(work, None) == 2
    named.configure_listeners({"long_log": True})
    Bus("r", named.listeners()).emit(RunFinished(seconds=1.0, products=[], n_failed=0))
    module = named.get("listener", "amb")
    assert module.seen == ["run.finished"]
    assert module.told == {"long_log": True}
    assert named.used() == {"listener:amb": "t_amb-dist 1.2"}
    assert Catalog.from_spec(named.spec()).execute(work, None) == 2
    blocked = Catalog(ambient=["amb"], blocked=["t_amb"])
    assert blocked.listeners() == []
    assert blocked.execute(work, None) == 1


def test_workers_load_no_listener_that_only_listens():
    spec = Catalog(ambient=["log", "progress"]).spec()
    assert spec["ambient"] == []


def test_hook_event(cp_catalog):
    seen = []

    def cpplug_event(event):
        seen.append((event.event, event.body.seconds))

    cp_catalog.add_module(module_with("t_ears", cpplug_event=hookimpl(cpplug_event)))
    assert [name for name, _ in cp_catalog.listeners()] == ["t_ears"]
    Bus("r", cp_catalog.listeners()).emit(RunFinished(seconds=2.0, products=[], n_failed=0))
    assert seen == [("run.finished", 2.0)]


def test_listener_that_listens_to_nothing_is_lying(install):
    install("t_deaf", "x = 1\n", {"cpplug.listener": {"deaf": "t_deaf"}})
    with pytest.raises(PluginError, match="listens to nothing"):
        Catalog(ambient=["deaf"]).listeners()
