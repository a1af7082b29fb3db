"""Edge bleeds, sags and dips: the known answers on full-size detectors."""

from __future__ import annotations

import numpy as np
import pytest

from cpplug.api import Amplifier, Box, Detector, Exposure, mask_bits
from cpplug.api.testing import IsrStepContract
from cpplug_isr import saturation_artifacts as module
from cpplug_isr.bleeds import areas_of, dip_columns
from cpplug_isr.saturation_artifacts import (
    SaturationArtifactsConfig,
    mask_artifacts,
    saturation_level,
)

SAT, SUSPECT, DIP = (mask_bits(plane) for plane in ("SAT", "SUSPECT", "ITL_DIP"))
NO_SAG = SaturationArtifactsConfig(itl_sat_sag=False, min_area=2400)


class TestSaturationArtifacts(IsrStepContract):
    (step,) = module.cpplug_isr_steps()


def detector(vendor: str, width: int, height: int) -> Detector:
    """Sixteen amplifiers in two rows."""
    across, up = width // 8, height // 2
    amplifiers = tuple(
        Amplifier(
            name=f"C{row}{column}",
            source=(Box(0, 0, across, up),),
            data=Box(0, 0, across, up),
            bbox=Box(column * across, row * up, across, up),
            saturation=12000.0,
        )
        for row in (0, 1)
        for column in range(8)
    )
    return Detector(
        id=0, name="D", amplifiers=amplifiers, width=width, height=height, vendor=vendor
    )


class Sky:
    """A detector with stars as in algorithms D.5.11."""

    def __init__(self, vendor: str = "ITL", width: int = 4072, height: int = 4000) -> None:
        image = np.zeros((height, width), np.float32)
        self.exposure = Exposure(None, detector(vendor, width, height), image)

    def _set(self, y0, y1, x0, x1) -> None:
        box = np.s_[max(y0, 0) : y1, max(x0, 0) : x1]
        self.exposure.image[box] = 15000
        self.exposure.mask[box] |= SAT

    def core(self, x, y, a, b) -> None:
        self._set(y - b, y + b, x - a, x + a)

    def columns(self, x, y, a, limit) -> None:
        self._set(min(y, limit), max(y, limit), x - a, x + a)

    def bleed(self, x, reach, core, top=False) -> None:
        turn = slice(None, None, -1 if top else 1)
        image, mask = self.exposure.image[turn], self.exposure.mask[turn]
        for k in range(100):
            half = int((reach * np.exp(-0.04 * k) + core) / 2)
            ends = [max(x - half, 0), min(x + half, image.shape[1] - 1)]
            image[k, ends[0] + 1 : ends[1]] = 10200
            image[k, ends] = 15000
            mask[k, ends] |= SAT

    def count(self) -> int:
        return int(np.count_nonzero(self.exposure.mask & SAT))

    def first(self) -> None:
        self.core(70, 120, 40, 70)
        self.columns(70, 120, 3, 100)
        self.bleed(70, 60, 6)
        self.core(10, 90, 14, 50)
        self.bleed(10, 70, 6)

    def second(self) -> None:
        self.core(2100, 3100, 50, 80)
        self.columns(2100, 3100, 4, 3900)
        self.bleed(2100, 100, 8, top=True)
        self.exposure.image[2920:3020, 2100] = 10500

    def third(self) -> None:
        self.core(3020, 1000, 70, 150)
        self.columns(3020, 1000, 7, 3900)
        self.columns(3020, 1000, 7, 100)
        self.bleed(3020, 150, 14)
        self.bleed(3020, 150, 14, top=True)

    def fourth(self) -> None:
        self.core(4060, 3000, 30, 500)
        self.columns(4060, 3000, 3, 3900)
        self.bleed(4060, 100, 6, top=True)


def test_itl_edge_bleeds() -> None:
    """The published counts are sums: each star adds its own, the second one also its sag."""
    counts = {"first": 22967, "second": 50745 - 22967, "third": 184669 - 74905}
    counts["fourth"] = 238379 - 184669
    for name, expected in counts.items():
        sky = Sky()
        getattr(sky, name)()
        mask_artifacts(sky.exposure, NO_SAG, None)
        assert sky.count() == expected, name
    sky = Sky()
    for name in counts:
        getattr(sky, name)()
    before = sky.count()
    mask_artifacts(sky.exposure, NO_SAG, None)
    assert sky.count() == sum(counts.values())
    assert sky.exposure.measured("edge_bleed_pixels") == sky.count() - before


def test_itl_sag() -> None:
    sky = Sky()
    sky.second()
    mask_artifacts(sky.exposure, NO_SAG, None)
    before = sky.count()
    mask_artifacts(sky.exposure, SaturationArtifactsConfig(itl_edge_bleed=False), None)
    full = np.flatnonzero((sky.exposure.mask & SAT > 0).all(axis=0))
    assert full.tolist() == list(range(2096, 2104))
    assert sky.count() - before == 74905 - 50745
    assert sky.exposure.measured("sag_columns") == 8


def test_e2v_edge_bleed() -> None:
    sky = Sky("E2V", 4096, 4004)
    sky.core(1600, 1000, 200, 100)
    sky.columns(1600, 1000, 4, 0)
    sky.exposure.image[:100, 1600:1800] = 10000
    mask_artifacts(sky.exposure, SaturationArtifactsConfig(min_area=20000), None)
    assert sky.count() == 263600


@pytest.mark.parametrize("vendor", ["", "Loral"])
def test_other_makers_are_left_alone(vendor) -> None:
    sky = Sky(vendor, 512, 512)
    sky.core(100, 60, 60, 60)
    before = sky.exposure.mask.copy()
    mask_artifacts(sky.exposure, SaturationArtifactsConfig(min_area=100), None)
    assert np.array_equal(sky.exposure.mask, before)


def test_three_stars_in_one_area_are_left_alone() -> None:
    sky = Sky("ITL", 1024, 1024)
    for x in (300, 400, 500):
        sky.core(x, 100, 20, 100)
    sky.core(400, 220, 140, 20)
    sky.core(400, 20, 140, 20)
    config = SaturationArtifactsConfig(min_area=100, max_area=10**6, itl_sat_sag=False)
    before = sky.count()
    mask_artifacts(sky.exposure, config, None)
    assert sky.count() == before


@pytest.mark.parametrize(
    ("level", "expected"),
    [(1000, [*range(992, 1038), *range(1495, 1520)]), (50, [*range(992, 1038)]), (0, [])],
)
def test_dips(level, expected) -> None:
    sky = Sky()
    exposure = sky.exposure
    exposure.image[:], exposure.unit = level, "electron"
    boxes = [(500, 600, 1000, 1030), (1200, 1251, 1500, 1516), (1600, 1651, 2500, 2507)]
    for y0, y1, x0, x1 in [*boxes, (2500, 2525, 3000, 3016)]:
        exposure.mask[y0:y1, x0:x1] |= SAT
    options = {"itl_dip_background_fraction": 0.0025, "itl_edge_bleed": False}
    mask_artifacts(exposure, SaturationArtifactsConfig(**options), None)
    columns = exposure.mask & (DIP | SUSPECT) == DIP | SUSPECT
    assert np.flatnonzero(columns.all(axis=0)).tolist() == expected
    assert np.count_nonzero(columns) == len(expected) * exposure.image.shape[0]
    assert exposure.measured("dip_columns") == len(expected)


def test_too_many_dips_are_given_up() -> None:
    sky = Sky("ITL", 512, 512)
    sky.exposure.image[:], sky.exposure.unit = 1000, "electron"
    sky.exposure.mask[100:200, 100:130] |= SAT
    config = SaturationArtifactsConfig(
        itl_dip_background_fraction=0.0025, itl_dip_max_cols_per_image=45
    )
    mask_artifacts(sky.exposure, config, None)
    assert not (sky.exposure.mask & DIP).any()
    assert sky.exposure.measured("dips_given_up") == 1


def test_a_dip_is_judged_in_electrons() -> None:
    flags = np.zeros((100, 200), bool)
    flags[10:70, 50:80] = True
    numbers = {
        "fraction": 0.0025, "min_height": 50, "min_width": 15, "max_width": 50,
        "width_scale": 1.5, "min_noise_fraction": 0.5,
    }  # fmt: skip
    assert dip_columns(flags, 50.0, **numbers).any()
    assert not dip_columns(flags, 40.0, **numbers).any()
    for gain, found in ((1.0, False), (1.25, True)):
        sky = Sky("ITL", 512, 512)
        sky.exposure.image[:] = 40
        for amp in sky.exposure.detector.amplifiers:
            sky.exposure.record("gain", gain, "electron/adu", amp.name)
        sky.exposure.mask[10:70, 50:80] = SAT
        config = SaturationArtifactsConfig(itl_dip_background_fraction=0.0025)
        mask_artifacts(sky.exposure, config, None)
        assert bool((sky.exposure.mask & DIP).any()) is found


def test_the_saturation_level_is_above_the_bias() -> None:
    exposure = Sky("ITL", 64, 64).exposure
    names = [amp.name for amp in exposure.detector.amplifiers]
    assert saturation_level(exposure) == 12000
    for name in names:
        exposure.record("overscan_level", 1000, "adu", name)
    assert saturation_level(exposure) == 11000, "the camera's level includes the bias"
    for name in names:
        exposure.record("saturation_level", 9000, "adu", name)
    assert saturation_level(exposure) == 9000, "noted after the overscan was subtracted"
    for name in names:
        exposure.record("gain", 2.0, "electron/adu", name)
    exposure.unit = "electron"
    assert saturation_level(exposure) == 18000


def test_areas_hang_together_at_corners() -> None:
    flags = np.eye(5, dtype=bool)
    flags[0, 4] = True
    assert [area.size for area in areas_of(flags)] == [5, 1]
    assert next(areas_of(flags)).centre == (2.0, 2.0)
