"""Raw frames with known truth: a camera that can be asked what it really did.

``cpplug simulate bias --instrument NAME -o DIR`` writes raw files of any registered camera, as its
control system would have, and beside them in ``DIR/truth`` everything that went into them. Use it
to try a recipe before the night, to rehearse a failure, or to test a correction: the formulas in
here are written down independently of the corrections and share no code with them.

From Python: ``simulate_frame(instrument, info, detector, settings, seed)`` returns the segments of
one detector and their truth without touching the disk.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpplug_simulate.correlation import covariance_model, pixel_area_kernel
    from cpplug_simulate.detector import StaticDetector, static_detector
    from cpplug_simulate.frame import Simulated, simulate_frame
    from cpplug_simulate.recipes import plan
    from cpplug_simulate.settings import RECIPES, Settings, settings_for
    from cpplug_simulate.write import simulate_night, write_frame

__all__ = [
    "RECIPES",
    "Settings",
    "Simulated",
    "StaticDetector",
    "covariance_model",
    "pixel_area_kernel",
    "plan",
    "settings_for",
    "simulate_frame",
    "simulate_night",
    "static_detector",
    "write_frame",
]

_HOME = {
    "RECIPES": "settings",
    "Settings": "settings",
    "Simulated": "frame",
    "StaticDetector": "detector",
    "covariance_model": "correlation",
    "pixel_area_kernel": "correlation",
    "plan": "recipes",
    "settings_for": "settings",
    "simulate_frame": "frame",
    "simulate_night": "write",
    "static_detector": "detector",
    "write_frame": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cpplug_simulate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cpplug_simulate.{_HOME[name]}"), name)
