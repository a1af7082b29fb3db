"""One simulated detector: everything about it that does not change from exposure to exposure.

It depends on the seed, the detector and the strengths of the effects, never on the exposure; two
nights simulated with one seed come from one camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cpplug.api import Detector
from cpplug_simulate import born, charge, correlation, light, readout
from cpplug_simulate.geometry import Floats, assemble
from cpplug_simulate.settings import STATIC as STATIC_EFFECTS
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import STATIC


@dataclass(kw_only=True)
class StaticDetector:
    """The truth of a detector.

    Attributes
    ----------
    level, gain, read_noise, full_well
        By amplifier: ADU, electron/ADU, electron, electron.
    nonlinearity
        By amplifier: c2, c3 ... of ``readout.bend``.
    crosstalk
        (source, target) in the order of the amplifiers, ADU/ADU.
    kernel
        Area changes of the brighter-fatter effect, 1/electron, by distance.
    pattern
        By amplifier: float32 (rows, columns) of the segment in read-out order, ADU: level and
        fixed pattern, as a noise-free frame without row drift would be.
    bias
        Assembled, ADU: the mean over noise of a data pixel less the overscan level of its row.
    dark
        Assembled, electron/s/pixel: the smooth dark current, hot pixels left out.
    hot
        y, x, rate (electron/s) of hot pixels and of the pixels of bright columns.
    n_hot
        How many of ``hot`` are single pixels; they come first.
    dead
        (first row, last row, column) of dead columns in the assembled image, last row excluded.
    mask
        uint8, assembled: HOT, BRIGHT_COLUMN, DEAD_COLUMN.
    """

    detector: Detector
    seed: int
    settings: Settings
    maximum: int
    level: dict[str, float]
    gain: dict[str, float]
    read_noise: dict[str, float]
    full_well: dict[str, float]
    nonlinearity: dict[str, tuple[float, ...]]
    crosstalk: npt.NDArray[np.float64]
    kernel: npt.NDArray[np.float64]
    pattern: dict[str, Floats]
    bias: Floats
    dark: Floats
    hot: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
    n_hot: int
    dead: list[tuple[int, int, int]]
    mask: npt.NDArray[np.uint8]
    _response: dict[str, Floats] = field(default_factory=dict)

    def response(self, physical_filter: str) -> Floats:
        """Return the sensitivity in a filter (fraction), dead columns in, dust out."""
        if physical_filter not in self._response:
            image = light.response(
                self.settings, self.seed, self.detector.id, self.detector.shape, physical_filter
            )
            for first, last, column in self.dead:
                image[first:last, column] *= np.float32(self.settings.bad_columns.response)
            self._response = {physical_filter: image}
        return self._response[physical_filter]


def static_detector(
    detector: Detector, settings: Settings, seed: int, dtype: str = "int32"
) -> StaticDetector:
    """Return the truth of a detector; the last few are kept.

    Parameters
    ----------
    detector
        Geometry, nominal gains and noises.
    settings
        Effects.
    seed
        Non-negative integer.
    dtype
        Pixel type of the raw file, which sets the range of the ADC.
    """
    return _static_detector(detector, msgspec.json.encode(settings), seed, dtype)


@lru_cache(maxsize=2)
def _static_detector(detector: Detector, encoded: bytes, seed: int, dtype: str) -> StaticDetector:
    settings = msgspec.json.decode(encoded, type=Settings)
    amplifiers = detector.amplifiers
    names = [amplifier.name for amplifier in amplifiers]
    maximum = settings.adc.maximum
    maximum = readout.adc_maximum(dtype) if maximum is None else maximum
    gain = {a.name: born.factor(settings.gain.factors, a, a.gain) for a in amplifiers}
    if not settings.gain.on:
        gain = dict.fromkeys(names, 1.0)
    level = born.levels(settings, seed, detector, maximum)
    columns, pixels = born.patterns(settings, seed, detector)
    pattern = {}
    for amplifier in amplifiers:
        image = np.full(amplifier.shape, level[amplifier.name], np.float32)
        rows, cols = amplifier.data.slices
        image[:, cols] += columns[amplifier.name]
        image[rows, cols] += pixels[amplifier.name]
        pattern[amplifier.name] = image
    hot, n_hot, dead, mask = born.defects(settings, seed, detector)
    return StaticDetector(
        detector=detector,
        seed=seed,
        settings=settings,
        maximum=maximum,
        level=level,
        gain=gain,
        read_noise={
            a.name: born.factor(settings.read_noise.factors, a, a.read_noise)
            if settings.read_noise.on
            else 0.0
            for a in amplifiers
        },
        full_well={a.name: born.full_well(settings, a, level, gain) for a in amplifiers},
        nonlinearity=born.nonlinearity(settings, seed, detector),
        crosstalk=born.crosstalk(settings, seed, detector),
        kernel=correlation.pixel_area_kernel(settings.brighter_fatter),
        pattern=pattern,
        bias=assemble(detector, {n: columns[n][None, :] + pixels[n] for n in names}),
        dark=charge.dark_rate(settings.dark_current, detector.shape),
        hot=hot,
        n_hot=n_hot,
        dead=dead,
        mask=mask,
    )


def static_facts(static: StaticDetector) -> dict[str, Any]:
    """Return the numbers of a detector's truth, for ``truth.json``; units are in the names."""
    names = [amplifier.name for amplifier in static.detector.amplifiers]
    settings = msgspec.to_builtins(static.settings)
    return {
        "detector": static.detector.id,
        "name": static.detector.name,
        "seed": static.seed,
        "settings": {name: settings[name] for name in STATIC_EFFECTS},
        "adc_maximum": static.maximum,
        "amplifiers": names,
        "bias_level_adu": static.level,
        "gain_electron_per_adu": static.gain,
        "read_noise_electron": static.read_noise,
        "full_well_electron": static.full_well,
        "nonlinearity_c2_c3": {k: list(v) for k, v in static.nonlinearity.items()},
        "crosstalk_source_target": static.crosstalk.tolist(),
        "a_matrix_per_electron": static.kernel.tolist(),
        "cti": {k: v for k, v in settings["cti"].items() if k != "on"},
        "hot_pixels": static.n_hot,
        "dead_columns": [list(span) for span in static.dead],
        "dust_at_home": light.donuts(
            static.settings, static.seed, static.detector.id, static.detector.shape, STATIC
        ),
    }
