"""What a plan asks of the workers: one task per exposure and detector, and the key it is known by.

The key is the hash of all that decides the result, so that a unit that was finished under the same
key need not be done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cpplug.api.records import Calibration
from cpplug.engine.calibs import CalibRef
from cpplug.engine.plan import Group, Plan, Prepared, Unit
from cpplug.engine.units import Task


def make_task(
    plan: Plan,
    prepared: Prepared,
    group: Group,
    unit: Unit,
    folder: Path | None,
    *,
    verifiers: tuple[str, ...] = (),
    membership: str = "",
) -> Task:
    """Return the task of one unit; its key is the hash of all that decides its result."""
    name = f"{plan.instrument}/{group.detector_name}/{unit.info.exposure}"
    steps = tuple(step for step in plan.steps if step.enabled)
    recipe: Calibration = prepared.recipe
    config = prepared.settings.calibration_config()
    options = {
        field: msgspec.to_builtins(getattr(config, field)) for field in config.__struct_fields__
    }
    content = [
        unit.sha256,
        group.detector,
        [(step.name, sorted(msgspec.to_builtins(step.options).items())) for step in steps],
        sorted(calib.sha256 for calib in unit.calibs),
        [sibling.content() for sibling in unit.siblings],
        sorted(options.items()),
        verifiers,
    ]
    key = hashlib.sha256(repr(content).encode()).hexdigest()
    measure = recipe.measure is not None and not verifiers
    return Task(
        unit=name,
        key=key,
        instrument=plan.instrument,
        info=unit.info,
        detector=group.detector,
        raw=unit.raw,
        steps=steps,
        calibs=unit.calibs,
        siblings=unit.siblings,
        calibration=recipe.name,
        options=options,
        frame=str(folder / f"det{group.detector}" / str(unit.info.exposure))
        if folder is not None and (recipe.keeps_frames or measure)
        else "",
        keep_frame=folder is not None and recipe.keeps_frames,
        measure=measure,
        verifiers=verifiers,
        membership=membership,
        seed=seed_of(name),
    )


def seed_of(text: str) -> int:
    """Return a number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def in_group(task: Task, group: Group) -> bool:
    """Tell whether a task belongs to a group."""
    return task.detector == group.detector and any(
        unit.info.exposure == task.info.exposure for unit in group.units
    )


def common_calibs(units: Sequence[Unit]) -> list[CalibRef]:
    """Return the calibrations that all units share."""
    shared = {calib.sha256: calib for calib in units[0].calibs}
    for unit in units[1:]:
        mine = {calib.sha256 for calib in unit.calibs}
        shared = {sha: calib for sha, calib in shared.items() if sha in mine}
    return list(shared.values())
