"""Small cameras and frames for the tests of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cpplug.api import EMPTY, Amplifier, Box, Detector, ExposureInfo, RawExposure

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "cases"


def exposure_info(exposure: int = 1, **fields: object) -> ExposureInfo:
    base: dict[str, object] = {
        "instrument": "toy",
        "exposure": exposure,
        "obs_id": f"toy{exposure}",
        "day_obs": 20210120,
        "seq_num": exposure,
        "observation_type": "bias",
        "exposure_time": 0.0,
        "dark_time": 0.0,
        "begin": exposure * 10**9,
        "end": exposure * 10**9,
    }
    return ExposureInfo(**{**base, **fields})


def one_amplifier(
    shape: tuple[int, int],
    data: Box,
    serial: Box,
    parallel: Box = EMPTY,
    **fields: object,
) -> Detector:
    amplifier = Amplifier(
        name="A",
        source=(Box(0, 0, shape[1], shape[0]),),
        data=data,
        serial_overscan=serial,
        parallel_overscan=parallel,
        bbox=Box(0, 0, data.width, data.height),
        **fields,
    )
    return Detector(id=0, name="toy", amplifiers=(amplifier,), width=data.width, height=data.height)


@pytest.fixture
def info() -> Callable[..., ExposureInfo]:
    return exposure_info


@pytest.fixture
def detector_of() -> Callable[..., Detector]:
    """A detector of one amplifier A: ``detector_of(shape, data, serial, parallel, ...)``."""
    return one_amplifier


@pytest.fixture
def raw() -> Callable[..., RawExposure]:
    """A frame of one amplifier A: ``raw(detector, image, mask)``."""

    def build(detector: Detector, image: np.ndarray, mask: np.ndarray | None = None) -> RawExposure:
        masks = None if mask is None else {"A": mask.astype(np.uint16)}
        return RawExposure(exposure_info(), detector, {"A": image.astype(np.float32)}, masks)

    return build


@pytest.fixture
def reference_case() -> Callable[[str], tuple[dict, dict, Path]]:
    """Arrays of a reference case, (inputs, expected, folder); skips where there are none."""

    def load(name: str) -> tuple[dict, dict, Path]:
        folder = REFERENCE / name
        if not folder.is_dir():
            pytest.skip("the reference cases are not beside this checkout")
        read = [
            dict(np.load(folder / f"{part}.npz", allow_pickle=False))
            for part in ("inputs", "expected")
        ]
        return read[0], read[1], folder

    return load


@pytest.fixture
def two_amplifiers() -> Callable[..., RawExposure]:
    """A frame of two amplifiers side by side, B turned in both directions; ADU 2 in overscans."""

    def build(level: float = 10.0, **fields: object) -> RawExposure:
        shared = {
            "source": (Box(0, 0, 9, 10),),
            "data": Box(1, 0, 5, 7),
            "prescan": Box(0, 0, 1, 10),
            "serial_overscan": Box(6, 0, 3, 7),
            "parallel_overscan": Box(1, 7, 5, 3),
            **fields,
        }
        amplifiers = (
            Amplifier(name="A", bbox=Box(0, 0, 5, 7), **shared),
            Amplifier(name="B", bbox=Box(5, 0, 5, 7), flip_x=True, flip_y=True, **shared),
        )
        detector = Detector(id=3, name="twin", amplifiers=amplifiers, width=10, height=7)
        segments = {name: np.full((10, 9), 2, np.float32) for name in "AB"}
        for image in segments.values():
            image[0:7, 1:6] = level
        return RawExposure(exposure_info(), detector, segments)

    return build
