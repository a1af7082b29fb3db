"""simcam: the smallest instrument."""

from __future__ import annotations

import pytest

from cpplug.api import DataError
from cpplug_simcam import SimCam, cpplug_instruments
from cpplug_simulate import plan, settings_for


@pytest.fixture
def header():
    simcam = SimCam()
    info = plan(simcam, "dark", [2021012000019], settings=settings_for("dark"), seed=1)[0]
    return {key: value for key, value, _ in simcam.simulated_frame(info, 0).primary}


def test_it_is_offered_by_name():
    assert [instrument.name for instrument in cpplug_instruments()] == ["simcam"]


def test_two_amplifiers_cover_the_detector():
    detector = SimCam().camera.detector(0)
    assert detector.shape == (64, 64)
    assert [amplifier.name for amplifier in detector.amplifiers] == ["L", "R"]
    assert {amplifier.shape for amplifier in detector.amplifiers} == {(68, 52)}


def test_it_claims_its_own_frames_only(header):
    simcam = SimCam()
    assert simcam.claims(header)
    assert not simcam.claims({**header, "INSTRUME": "other"})
    assert not simcam.claims({})


def test_a_header_becomes_facts(header):
    info = SimCam().translate(header)
    assert (info.exposure, info.day_obs, info.seq_num) == (2021012000019, 20210120, 19)
    assert info.observation_type == "dark"
    assert info.exposure_time == 30.0
    assert info.end - info.begin == 30 * 10**9
    assert info.detector_serial == "SIM-001"
    assert info.binning == (1, 1)


@pytest.mark.parametrize("card", ["OBSID", "DAYOBS", "IMGTYPE", "EXPTIME", "DATE-OBS"])
def test_a_missing_card_is_named(header, card):
    del header[card]
    with pytest.raises(DataError, match=card):
        SimCam().translate(header)


def test_a_senseless_card_is_a_data_error(header):
    with pytest.raises(DataError, match="makes no sense"):
        SimCam().translate({**header, "EXPTIME": "long"})
    with pytest.raises(DataError):
        SimCam().translate({**header, "DATE-OBS": "yesterday"})
