"""Kast blue: headers, geometry, and the numbers that two other programs measured."""

from pathlib import Path

import cpplug_kast
import numpy as np
import pytest

from cpplug.api import DataError, NoConfig
from cpplug.api.testing import InstrumentContract
from cpplug.api.times import parse_time
from cpplug.engine.fits import read_headers, read_raw
from cpplug_isr.assemble import assemble

DATA = Path(__file__).parent / "data"
KAST = cpplug_kast.KastBlue()
DETECTOR = KAST.camera.detector("blue")


def raw(name):
    path = DATA / f"{name}.fits.gz"
    return read_raw(path, KAST.translate(read_headers(path)[0]), DETECTOR)


def level(frame, name):
    """Mean of the serial overscan, ADU."""
    box = DETECTOR.amplifier(name).serial_overscan
    return float(frame.segments[name][box.slices].mean())


class TestContract(InstrumentContract):
    """What every instrument must do."""

    instrument = KAST
    headers = [read_headers(DATA / "b21.fits.gz")[0]]


def test_facts_of_a_bias():
    header = read_headers(DATA / "b21.fits.gz")[0]
    assert header["OBSTYPE"] == "DARK"  # the instrument has no other word for a bias
    info = KAST.translate(header)
    assert info.exposure == 2015051900021
    assert info.observation_type == "bias"
    assert (info.exposure_time, info.target_name) == (0.0, "Bias")
    assert info.begin == parse_time("2015-05-20T03:44:04.78Z")
    assert info.dark_time == pytest.approx(0.02)
    assert info.physical_filter == "600-4310~d55"
    assert info.temperature == pytest.approx(-80.45)


def test_lamps_tell_flat_from_arc_from_sky():
    header = read_headers(DATA / "b11.fits.gz")[0]
    assert KAST.translate(header).observation_type == "flat"
    dark_dome = {**header, "LAMPSTA5": "off"}
    assert KAST.translate(dark_dome).observation_type == "science"
    assert KAST.translate({**dark_dome, "LAMPSTAF": "on"}).observation_type == "arc"
    assert KAST.translate({**dark_dome, "OBSTYPE": "DARK"}).observation_type == "dark"


@pytest.mark.parametrize("kind", ["bias", "dark", "flat", "arc", "science"])
def test_a_simulated_header_says_what_it_was_made_for(kind):
    from msgspec.structs import asdict, replace

    seconds = 0.0 if kind == "bias" else 2.0
    real = KAST.translate(read_headers(DATA / "b11.fits.gz")[0])
    end = real.begin + round(seconds * 1e9)
    info = replace(
        real, observation_type=kind, exposure_time=seconds, dark_time=seconds, end=end,
        target_name="Bias" if kind == "bias" else "Feige 66",
    )  # fmt: skip
    frame = KAST.simulated_frame(info, 0)
    again = KAST.translate({key: value for key, value, _ in frame.primary})
    assert asdict(again) == asdict(info)
    assert (frame.file_name, frame.segments, frame.dtype) == ("b11.fits", {}, "uint16")


def test_a_missing_card_is_named():
    header = {k: v for k, v in read_headers(DATA / "b21.fits.gz")[0].items() if k != "OBSNUM"}
    with pytest.raises(DataError, match="OBSNUM"):
        KAST.translate(header)


def test_segments_are_in_read_out_order():
    """The first pixel of every line has not settled: it must come first in both amplifiers."""
    for amp in DETECTOR.amplifiers:
        segment = raw("b21").segments[amp.name]
        assert segment.shape == (350, 1056)
        typical = np.median(segment)
        first, overscan = np.median(segment[:, 0]), np.median(segment[:, 1024])
        assert first < typical - 5
        assert overscan < typical - 5


def test_assembly_puts_every_pixel_where_it_was():
    from astropy.io import fits

    image = assemble(raw("b11"), NoConfig(), None).image
    np.testing.assert_array_equal(image, fits.getdata(DATA / "b11.fits.gz")[:, :2048])


@pytest.mark.parametrize(
    ("frame", "left", "right"), [("b21", 943, 965), ("b22", 943, 965), ("b11", 949, 980)]
)
def test_overscan_levels(frame, left, right):
    exposed = raw(frame)
    assert level(exposed, "left") == pytest.approx(left, abs=1.0)
    assert level(exposed, "right") == pytest.approx(right, abs=1.0)


def test_the_level_rises_with_the_signal_and_overscan_follows_it():
    """A bias frame alone would leave these pedestals: +6 and +16 ADU in the flat."""
    bias, flat = raw("b21"), raw("b11")
    rise = [level(flat, name) - level(bias, name) for name in ("left", "right")]
    assert rise == pytest.approx([6, 15], abs=1.0)


@pytest.mark.parametrize(("name", "noise"), [("left", 2.85), ("right", 2.70)])
def test_read_noise_from_pairs_of_biases(name, noise):
    """Standard deviation of the difference over the square root of two, as published (3 %)."""
    frames = [raw(f"b2{i}").segments[name][DETECTOR.amplifier(name).data.slices] for i in (1, 2, 3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        difference = frames[one] - frames[other]
        good = np.abs(difference - np.median(difference)) < 5 * difference.std()
        assert difference[good].std() / np.sqrt(2) == pytest.approx(noise, rel=0.03)
