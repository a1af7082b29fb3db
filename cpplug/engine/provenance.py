"""Where a product came from: what the registry stores, and the cards its file carries.

The registry keeps inputs, calibrations used, plugins with versions, resolved options with their
sources, command line, user and host; the header repeats the part that must travel with the file.
"""

from __future__ import annotations

import getpass
import platform
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cpplug
from cpplug.api import times
from cpplug.api.instrument import Instrument
from cpplug.api.product import MetaValue

if TYPE_CHECKING:
    from cpplug.engine.plan import Group, Plan, Unit
    from cpplug.engine.run import Driver
    from cpplug.store.records import DataId


def provenance_of(
    driver: Driver, group: Group, used: Sequence[Unit], failed: int
) -> dict[str, Any]:
    """Return everything that is stored of a product's origin, JSON-safe."""
    import numpy

    calibs = {calib.dataset: calib for unit in used for calib in unit.calibs}
    siblings = [
        {
            "exposure": unit.info.exposure,
            "detector": sibling.detector,
            "sha256": sibling.sha256,
            "calibrations": [calib.dataset for calib in sibling.calibs],
        }
        for unit in used
        for sibling in unit.siblings
    ]
    return {
        "inputs": [{"exposure": unit.info.exposure, "sha256": unit.sha256} for unit in used],
        "n_failed": failed,
        "rejected": {str(number): reason for number, reason in driver.plan.rejected},
        "calibrations": [
            {
                "dataset": calib.dataset,
                "dataset_type": calib.dataset_type,
                "sha256": calib.sha256,
                "collection": calib.collection,
                "begin": times.format_time(calib.begin),
                "end": times.format_time(calib.end),
            }
            for calib in calibs.values()
        ],
        **({"siblings": siblings} if siblings else {}),
        "steps": [step.name for step in driver.plan.steps if step.enabled],
        "config": driver.prepared.settings.as_dict(),
        "config_digest": driver.plan.config_digest,
        "plugins": driver.catalog.used(),
        "software": {
            "cpplug": cpplug.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        "command": driver.options.command,
        "user": getpass.getuser(),
        "host": socket.gethostname(),
    }


def product_cards(
    identity: str,
    plan: Plan,
    run: str,
    data_id: DataId,
    used: Sequence[Unit],
    provenance: Mapping[str, Any],
    instrument: Instrument,
) -> dict[str, MetaValue]:
    """Return the provenance cards of a product's primary header, in order.

    Dates are TAI (``TIMESYS``); they span the inputs from the first begin to the last end.
    """
    detector = instrument.camera.detector(data_id.detector)
    begin = min(unit.info.begin for unit in used)
    end = max(unit.info.end for unit in used)
    cards: dict[str, MetaValue] = {
        "OBSTYPE": plan.calibration,
        "INSTRUME": plan.instrument,
        "DETECTOR": detector.id,
        "DETNAME": detector.name,
        "TIMESYS": "TAI",
        "DATE-BEG": times.format_time(begin),
        "DATE-END": times.format_time(end),
        "DATE-AVG": times.format_time((begin + end) // 2),
        "MJD-BEG": times.to_mjd(begin),
        "MJD-END": times.to_mjd(end),
    }
    serials = {unit.info.detector_serial for unit in used} - {""}
    if len(serials) == 1:
        cards["DETSER"] = serials.pop()
    if data_id.physical_filter:
        cards["FILTER"] = data_id.physical_filter
    cards |= {
        "CPP_ID": identity,
        "CPP_RUN": run,
        "CPP_VERS": cpplug.__version__,
        "CPP_CONF": plan.config_digest,
        "CPP_STEP": " ".join(s.name for s in plan.steps if s.enabled),
        "CPP_NINP": len(used),
        "CPP_NBAD": int(provenance["n_failed"]),
    }
    for number, unit in enumerate(used):
        cards[f"CPP_INPUT_{number}"] = unit.info.exposure
        cards[f"CPP_INPUT_DATE_{number}"] = times.format_time(unit.info.begin)
        cards[f"CPP_INPUT_EXPT_{number}"] = unit.info.exposure_time
    for number, calib in enumerate(provenance["calibrations"]):
        cards[f"CPP_CALIB_{number}"] = f"{calib['dataset_type']} {calib['dataset']}"
    return cards
