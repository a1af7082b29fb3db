"""What ``--plan`` shows: exposures, steps with their switches, calibrations and where they lie."""

from __future__ import annotations

from typing import Any

import msgspec

from cpplug.api import times
from cpplug.engine.plan import Plan, Prepared, Request


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
                any(k.dataset == c.dataset for k in unit.calibs)
                for group in plan.groups
                for unit in group.units
            ),
        }
        for group in plan.groups
        for unit in group.units
        for c in unit.calibs
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
                "options": ", ".join(f"{k}={v}" for k, v in step.options.items()),
            }
            for i, step in enumerate(plan.steps)
        ],
        "calibrations": list(calibs.values()),
        "config_digest": plan.config_digest,
        "request": msgspec.to_builtins(request),
    }
