"""Small stand-ins for plugin tests: a camera, exposures, a context, calibrations.

They are made of the real data classes, so what works on a fake works on a frame. The fixtures of
``cpplug.api.testing`` hand them out; this module can also be used directly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpplug.api.camera import Camera, Detector, camera_from
from cpplug.api.context import Evidence, FrameEvidence, ProductFacts
from cpplug.api.errors import CalibrationMissing, DataError
from cpplug.api.events import Event
from cpplug.api.exposure import MASK_DTYPE, AmplifierNoise, Exposure, Image, RawExposure, mask_bits
from cpplug.api.instrument import ExposureInfo
from cpplug.api.product import ImageProduct, TableProduct
from cpplug.api.records import Combiner, Frame, Solution, Solver, Threshold
from cpplug.api.stack import Block, Combined
from cpplug.api.times import NS_PER_SECOND, parse_time

if TYPE_CHECKING:
    from cpplug.api.context import Exposures, Log

EXCLUDED = mask_bits("BAD", "SAT", "CR", "NO_DATA")
"""Mask bits that take a pixel out of a fake stack."""
NO_GOOD = mask_bits("NO_DATA")


def make_camera() -> Camera:
    """Return a camera with one detector of two amplifiers, 24 x 32 data pixels each.

    Prescan 2, serial overscan 8 columns, parallel overscan 4 rows; A is read from the left,
    B from the right.
    """
    return camera_from(
        {
            "name": "FakeCam",
            "amplifier": {
                "source": [0, 0, 34, 36],
                "prescan": [0, 0, 2, 36],
                "data": [2, 0, 24, 32],
                "serial_overscan": [26, 0, 8, 32],
                "parallel_overscan": [2, 32, 24, 4],
                "gain": 1.5,
                "read_noise": 6.0,
                "saturation": 60000.0,
            },
            "detector": [
                {
                    "id": 0,
                    "name": "FAKE_0",
                    "amplifiers": [
                        {"name": "A", "hdu": 1, "bbox": [0, 0, 24, 32]},
                        {"name": "B", "hdu": 2, "bbox": [24, 0, 24, 32], "flip_x": True},
                    ],
                }
            ],
        }
    )


def make_info(
    exposure: int = 2026010100001, observation_type: str = "bias", **facts: Any
) -> ExposureInfo:
    """Return the facts of an exposure; exposure id is day_obs * 100000 + sequence number."""
    begin = parse_time("2026-01-02T00:00:00") + (exposure % 100_000) * 30 * NS_PER_SECOND
    exposure_time = float(facts.get("exposure_time", 0.0))
    base: dict[str, Any] = {
        "instrument": "FakeCam",
        "exposure": exposure,
        "obs_id": f"FC_{exposure}",
        "day_obs": exposure // 100_000,
        "seq_num": exposure % 100_000,
        "observation_type": observation_type,
        "exposure_time": exposure_time,
        "dark_time": exposure_time,
        "begin": begin,
        "end": begin + round(exposure_time * NS_PER_SECOND),
    }
    return ExposureInfo(**{**base, **facts})


def make_raw(
    level: float = 0.0,
    *,
    pedestal: float = 1000.0,
    noise: float = 4.0,
    seed: int = 1,
    detector: Detector | None = None,
    info: ExposureInfo | None = None,
) -> RawExposure:
    """Return a raw exposure: pedestal (ADU) everywhere, ``level`` (ADU) more in the data pixels.

    Gaussian noise of standard deviation ``noise`` (ADU) in all pixels.
    """
    detector = detector or make_camera().detector(0)
    random = np.random.default_rng(seed)
    segments: dict[str, Image] = {}
    for amplifier in detector.amplifiers:
        image = random.normal(pedestal, noise, amplifier.shape).astype(np.float32)
        image[amplifier.data.slices] += np.float32(level)
        segments[amplifier.name] = image
    return RawExposure(info or make_info(), detector, segments)


def make_exposure(
    level: float = 0.0,
    *,
    noise: float = 4.0,
    seed: int = 1,
    detector: Detector | None = None,
    info: ExposureInfo | None = None,
) -> Exposure:
    """Return an assembled exposure with ``level`` and Gaussian ``noise`` (ADU), nothing masked."""
    detector = detector or make_camera().detector(0)
    image = np.random.default_rng(seed).normal(level, noise, detector.shape).astype(np.float32)
    exposure = Exposure(info or make_info(), detector, image)
    for amplifier in detector.amplifiers:
        exposure.noise[amplifier.name] = AmplifierNoise(amplifier.gain, noise)
    return exposure


def make_product(detector: Detector, value: float = 0.0, unit: str = "adu") -> ImageProduct:
    """Return a constant image calibration for a detector, variance 1, nothing masked."""
    return ImageProduct(
        image=np.full(detector.shape, value, np.float32),
        mask=np.zeros(detector.shape, MASK_DTYPE),
        variance=np.ones(detector.shape, np.float32),
        unit=unit,
    )


class FakeCalibs:
    """Calibrations from two mappings, dataset type to product; siblings by detector name.

    ``asked`` lists the detectors whose frame was asked for.
    """

    def __init__(
        self,
        images: Mapping[str, ImageProduct] | None = None,
        tables: Mapping[str, TableProduct] | None = None,
        siblings: Mapping[str, Frame] | None = None,
    ) -> None:
        self.images = dict(images or {})
        self.tables = dict(tables or {})
        self.siblings = dict(siblings or {})
        self.asked: list[str] = []

    def image(self, dataset_type: str, like: Exposure | None = None) -> ImageProduct:
        """Return an image calibration; CalibrationMissing or DataError as the real one."""
        if dataset_type not in self.images:
            raise CalibrationMissing(f"No {dataset_type} was given to the fake calibrations.")
        product = self.images[dataset_type]
        if like is not None and product.image.shape != like.image.shape:
            raise DataError(f"The {dataset_type} is not of the size of the exposure.")
        return product

    def table(self, dataset_type: str) -> TableProduct:
        """Return a table calibration; CalibrationMissing when none was given."""
        if dataset_type not in self.tables:
            raise CalibrationMissing(f"No {dataset_type} was given to the fake calibrations.")
        return self.tables[dataset_type]

    def has(self, dataset_type: str) -> bool:
        """Tell whether a calibration of this type was given."""
        return dataset_type in self.images or dataset_type in self.tables

    def sibling(self, detector: str) -> Frame | None:
        """Return the frame that was given for this detector, or None."""
        self.asked.append(detector)
        return self.siblings.get(detector)


class FakeExposures:
    """Exposures that are all in memory."""

    def __init__(self, exposures: Sequence[Exposure]) -> None:
        self._exposures = list(exposures)

    @property
    def infos(self) -> Sequence[ExposureInfo]:
        """What the headers say."""
        return [exposure.info for exposure in self._exposures]

    def __len__(self) -> int:
        return len(self._exposures)

    def __iter__(self) -> Iterator[Exposure]:
        return iter(self._exposures)


@dataclass(kw_only=True)
class FakeContext:
    """A context that works: ``combine`` and ``solve`` run the records it was given.

    ``combiners`` and ``solvers`` hold records by name; where a combiner is missing, the plain mean
    stands in. What was emitted is in ``events``.
    """

    config: Any
    camera: Camera
    detector: Detector
    calibs: FakeCalibs = field(default_factory=FakeCalibs)
    scratch: Path = Path()
    seed: int = 1
    combiners: dict[str, Combiner] = field(default_factory=dict)
    solvers: dict[str, Solver] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    log: Log = field(default_factory=lambda: logging.getLogger("cpplug.fake"))

    def emit(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def require(self, condition: object, message: str, next_step: str = "") -> None:
        """Raise a DataError with this message unless the condition holds."""
        if not condition:
            raise DataError(message, next_step)

    def combine(
        self,
        exposures: Exposures,
        combiner: str,
        *,
        scales: Mapping[int, float | Mapping[str, float]] | None = None,
        halves: bool = False,
    ) -> Combined:
        """Collapse exposures into one image with the record of that name, or the plain mean."""
        frames = list(exposures)
        images = np.stack([_scaled(frame, scales) for frame in frames])
        masks = np.stack([frame.mask for frame in frames])
        good = (masks & EXCLUDED) == 0
        if combiner in self.combiners:
            record = self.combiners[combiner]
            block = Block(
                images=images, masks=masks, variances=None, exclude=EXCLUDED, no_good_bits=NO_GOOD
            )
            plane = record.combine(block, record.config())
            image, variance, mask, used = plane.image, plane.variance, plane.mask, plane.used
        else:
            used = good.sum(axis=0).astype(np.uint16)
            filled = np.where(good, images, 0.0)
            count = np.maximum(used, 1)
            image = (filled.sum(axis=0) / count).astype(np.float32)
            spread = (np.where(good, images - image, 0.0) ** 2).sum(axis=0)
            variance = (spread / np.maximum(used - 1.0, 1.0) / count).astype(np.float32)
            mask = np.bitwise_or.reduce(np.where(good, masks, 0), axis=0).astype(MASK_DTYPE)
        bad = (used == 0) | ~np.isfinite(image)
        image[bad] = np.median(image[~bad]) if (~bad).any() else 0.0
        variance[bad] = np.median(variance[~bad]) if (~bad).any() else 0.0
        mask[bad] |= MASK_DTYPE(mask_bits("BAD"))
        return Combined(
            image=image,
            variance=variance,
            mask=mask,
            used=used,
            n_inputs=len(frames),
            rejected_fraction=1.0 - float(used.sum()) / max(int(good.sum()), 1),
            n_repaired=int(bad.sum()),
            halves=images[0::2].mean(axis=0) - images[1::2].mean(axis=0)
            if halves and len(frames) > 1
            else None,
        )

    def solve(self, solver: str, data: Mapping[str, Any]) -> Solution:
        """Fit ``data`` with the record of that name; KeyError when none was given."""
        record = self.solvers[solver]
        return record.solve(data, record.config())


def _scaled(frame: Exposure, scales: Mapping[int, float | Mapping[str, float]] | None) -> Image:
    scale = (scales or {}).get(frame.info.exposure, 1.0)
    image = frame.image.copy()
    for amplifier in frame.detector.amplifiers:
        by = scale[amplifier.name] if isinstance(scale, Mapping) else scale
        image[amplifier.bbox.slices] /= np.float32(by)
    return image


def make_evidence(
    test: str,
    frames: Sequence[Mapping[str, Mapping[str, float]]],
    threshold: Threshold,
    *,
    detector: Detector | None = None,
    membership: str = "independent",
) -> Evidence:
    """Return what a verifier's ``check`` sees, from what its ``measure`` returned per frame."""
    detector = detector or make_camera().detector(0)
    return Evidence(
        test=test,
        product=ProductFacts(
            dataset="fake",
            sha256="0" * 64,
            dataset_type=test.partition(".")[0],
            unit="adu",
            n_inputs=len(frames),
            members=(),
            metadata={},
        ),
        detector=detector,
        frames=tuple(
            FrameEvidence(
                exposure=make_info(2026010100001 + n).exposure,
                mjd=61042.0 + n / 2880.0,
                membership=membership,
                values={scope: dict(numbers) for scope, numbers in values.items()},
                n_good={amp.name: amp.bbox.width * amp.bbox.height for amp in detector.amplifiers},
            )
            for n, values in enumerate(frames)
        ),
        threshold=threshold,
        n_comparisons=max(len(frames) * len(detector.amplifiers), 1),
        min_independent=2,
        min_good_fraction=0.5,
    )
