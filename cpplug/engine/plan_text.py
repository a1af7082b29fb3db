"""What ``--plan`` shows: exposures, steps with their switches, calibrations and where they lie."""

from __future__ import annotations

from typing import Any

import msgspec

from cpplug.api import times
from cpplug.engine.calibs import CalibRef
from cpplug.engine.plan import Group, Plan, Prepared, Request, Unit


def _calibs(unit: Unit) -> list[CalibRef]:
    """Return the calibrations of a unit, then those of the detectors that it may look at."""
    return [*unit.calibs, *(calib for sibling in unit.siblings for calib in sibling.calibs)]


def _siblings(prepared: Prepared, group: Group) -> list[str]:
    """Return the names of the detectors that steps may look at."""
    ids = sorted({sibling.detector for unit in group.units for sibling in unit.siblings})
    return [prepared.instrument.camera.detector(number).name for number in ids]


def _origin(prepared: Prepared, option: str) -> str:
    """Say where the value of an option came from, unless it is the default."""
    source = prepared.settings.values[option].source
    return "" if source == "default" else f" ({source})"


def plan_rows(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Return what ``--plan`` prints, JSON-safe."""
    plan: Plan = prepared.plan
    calibs = {
        (c.dataset_type, c.dataset): {
            "type": c.dataset_type,
            "dataset": c.dataset,
            "collection": c.collection,
            "begin": times.format_time(c.begin),
            "end": times.format_time(c.end),
            "exposures": sum(
                any(k.dataset == c.dataset for k in _calibs(unit))
                for group in plan.groups
                for unit in group.units
            ),
        }
        for group in plan.groups
        for unit in group.units
        for c in _calibs(unit)
    }
    return {
        "calibration": plan.calibration,
        "instrument": plan.instrument,
        "inputs": list(plan.inputs),
        "selection": plan.where,
        "exposures": [
            {
                "detector": group.detector_name,
                "physical_filter": group.physical_filter,
                "n": len(group.units),
                "ids": [unit.info.exposure for unit in group.units],
                "siblings": _siblings(prepared, group),
            }
            for group in plan.groups
        ],
        "rejected": [{"exposure": number, "reason": reason} for number, reason in plan.rejected],
        "steps": [
            {
                "n": i + 1,
                "step": step.name,
                "runs": "yes" if step.enabled else "no",
                "switch": step.source,
                "options": ", ".join(
                    f"{key}={value}{_origin(prepared, f'isr.{step.name}.{key}')}"
                    for key, value in step.options.items()
                ),
            }
            for i, step in enumerate(plan.steps)
        ],
        "calibrations": list(calibs.values()),
        "config_digest": plan.config_digest,
        "request": msgspec.to_builtins(request),
    }
