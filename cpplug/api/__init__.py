"""All that a plugin may import.

Names are loaded when they are first used, so that ``from cpplug.api import hookimpl`` costs no
numpy. The list below is the public interface; what is not in it may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "arithmetic": ("divide_by_product", "require_fit", "subtract_product"),
    "camera": ("EMPTY", "Amplifier", "Box", "Camera", "Detector", "camera_from", "load_camera"),
    "config": (
        "Config", "NoConfig", "at_least", "at_most", "doc", "fraction", "not_negative", "positive",
    ),
    "context": (
        "Calibs", "Context", "Evidence", "Exposures", "FrameEvidence", "Log", "ProductFacts",
        "Residual", "Toolbox",
    ),
    "errors": (
        "CalibrationAmbiguous", "CalibrationMissing", "CertificationConflict",
        "CertificationRefused", "ConfigError", "CpplugError", "DataError", "NothingMatched",
        "PluginError", "RepositoryError", "UnitsFailed", "UnknownNameError", "UsageError",
        "VerificationFailed", "WhereSyntaxError", "nearest",
    ),
    "events": ("EVENTS", "Envelope", "Event"),
    "exposure": (
        "MASK_DTYPE", "MASK_PLANES", "AmplifierNoise", "Exposure", "Image", "Mask", "Measurement",
        "RawExposure", "fraction_masked", "mask_bits",
    ),
    "hooks": ("API_VERSION", "Hooks", "hookimpl"),
    "instrument": ("ExposureInfo", "Header", "HeaderValue", "Instrument", "SimulatedFrame"),
    "product": ("ImageProduct", "Product", "TableProduct"),
    "records": (
        "Calibration", "Check", "Combiner", "ExecutorSetup", "ExposureQuery",
        "Frame", "IsrStep", "Measured",
        "PlanView", "PlannedStep", "Problem", "Severity", "Solution", "Solver", "Threshold",
        "Verdict", "Verifier", "Work", "WorkExecutor",
    ),
    "stack": ("Block", "Combined", "Plane"),
    "stats": (
        "Clipped", "ClippedRows", "clipped", "clipped_rows", "good_pixels", "integer_median",
        "integer_median_rows", "mad_sigma", "mean_rows", "mean_variance", "median", "median_rows",
        "quantile_rows", "quantiles", "quartile_range", "running_median", "truncation_correction",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from cpplug.api.arithmetic import *
    from cpplug.api.camera import *
    from cpplug.api.config import *
    from cpplug.api.context import *
    from cpplug.api.errors import *
    from cpplug.api.events import *
    from cpplug.api.exposure import *
    from cpplug.api.hooks import *
    from cpplug.api.instrument import *
    from cpplug.api.product import *
    from cpplug.api.records import *
    from cpplug.api.stack import *
    from cpplug.api.stats import *


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cpplug.api' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cpplug.api.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
