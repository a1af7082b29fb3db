"""A camera whose headers say nothing of its layout, from a TOML file: ESIS, four taps in one image.

Real frames of a Teledyne-e2v CCD230-42 (../shared/data/esis_ccd230_4tap, BSD-3-Clause, (c) Roy T.
Smart and Jacob D. Parker). Gain from a pair of LED flats and read noise from a pair of darks must
be what the package msfc_ccd and plain numpy agree on.
"""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from cpplug.api import ExposureInfo, NoConfig, load_camera
from cpplug.engine.fits import read_headers, read_raw
from cpplug_isr.assemble import assemble

CAMERA = load_camera(Path(__file__).resolve().parents[1] / "data" / "esis" / "camera.toml")
DETECTOR = CAMERA.detector("ESIS1")
FRAMES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "esis_ccd230_4tap"
PUBLISHED = {  # bias DN, gain electron/DN, read noise DN
    "LL": (3558.7, 2.529, 4.029),
    "LR": (3789.8, 2.508, 3.868),
    "UL": (3648.1, 2.530, 4.174),
    "UR": (3439.2, 2.512, 4.243),
}
INFO = ExposureInfo(
    instrument="ESIS", exposure=1, obs_id="ESIS1", day_obs=20170712, seq_num=1,
    observation_type="flat", exposure_time=2.0, dark_time=2.0, begin=0, end=2_000_000_000,
)  # fmt: skip
real = pytest.mark.skipif(not FRAMES.is_dir(), reason="../shared/data/esis_ccd230_4tap is not here")


def read(number):
    return read_raw(FRAMES / f"ESIS1_{number}.fit.gz", INFO, DETECTOR)


@pytest.fixture(scope="module")
def flats():
    return read("04803"), read("04804")


@pytest.fixture(scope="module")
def darks():
    return read("04860"), read("04861")


def parts(frame, name):
    """Image less the level of the blank columns, DN, and that level."""
    amp = DETECTOR.amplifier(name)
    level = frame.segments[name][amp.serial_overscan.slices].mean(dtype=np.float64)
    return frame.segments[name][amp.data.slices].astype(np.float64) - level, level


def variance_of_difference(one, other):
    """Half the variance of the difference, pixels beyond 4 sigma (cosmic rays) left out."""
    difference = one - other
    good = np.ones(difference.shape, bool)
    for _ in range(6):
        mean, sigma = difference[good].mean(), difference[good].std()
        good = np.abs(difference - mean) < 4 * sigma
    return difference[good].var() / 2


def test_every_tap_is_turned_so_that_its_corner_comes_first(tmp_path):
    """A made-up frame numbered by distance from the nearest corner."""
    y = np.minimum(np.arange(1040), np.arange(1040)[::-1])[:, None]
    x = np.minimum(np.arange(2152), np.arange(2152)[::-1])[None, :]
    path = tmp_path / "f.fit"
    astropy_fits.PrimaryHDU((y * 60 + x).astype(np.uint16)).writeto(path)
    raw = read_raw(path, INFO, DETECTOR)
    expected = (np.arange(520)[:, None] * 60 + np.arange(1076)).astype(np.uint16)
    for name in PUBLISHED:
        np.testing.assert_array_equal(raw.segments[name], expected)


@real
def test_the_headers_have_no_section_cards():
    header = read_headers(FRAMES / "ESIS1_04803.fit.gz")[0]
    assert not {"DATASEC", "BIASSEC", "TRIMSEC", "DETSEC", "CCDSEC", "GAIN"} & set(header)
    assert header["CAM_ID"] == "ESIS1"


@real
def test_assembly_keeps_the_picture(flats):
    whole = astropy_fits.getdata(FRAMES / "ESIS1_04803.fit.gz")
    rows = np.r_[8:520, 520:1032]
    columns = np.r_[50:1074, 1078:2102]
    np.testing.assert_array_equal(
        assemble(flats[0], NoConfig(), None).image, whole[np.ix_(rows, columns)]
    )


@real
@pytest.mark.parametrize("name", PUBLISHED)
def test_gain_and_noise_are_those_published(flats, darks, name):
    bias, gain, noise = PUBLISHED[name]
    one, level = parts(flats[0], name)
    other, _ = parts(flats[1], name)
    assert level == pytest.approx(bias, abs=0.2)
    signal = (one.mean() + other.mean()) / 2
    assert signal / variance_of_difference(one, other) == pytest.approx(gain, rel=0.005)
    dark_pair = [parts(frame, name)[0] for frame in darks]
    assert np.sqrt(variance_of_difference(*dark_pair)) == pytest.approx(noise, rel=0.01)
