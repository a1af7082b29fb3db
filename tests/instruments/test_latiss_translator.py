"""Known answers of the LATISS translator: algorithms.md E.5, and one header per dated fix."""

from dataclasses import dataclass, field

import pytest

from cpplug.api import DataError
from cpplug.api.testing import InstrumentContract
from cpplug.api.times import format_time, parse_time
from cpplug_latiss import Latiss, LatissMini
from cpplug_latiss.fixes import FIXES, SENSOR_CHANGE, mended
from cpplug_latiss.translator import exposure_id

LATISS = Latiss()
STUCK = {
    "DATE-OBS": "1970-01-01T00:00:08.000", "DATE-BEG": "1970-01-01T00:00:08.000",
    "DATE-END": "1970-01-01T00:00:08.000", "MJD-OBS": 40587.0000925935,
    "MJD-BEG": 40587.0000925935, "MJD-END": 40587.0000925935,
}  # fmt: skip


@dataclass
class Known:
    name: str
    header: dict
    exposure: int
    kind: str
    physical_filter: str
    exposure_time: float
    dark_time: float
    more: dict = field(default_factory=dict)


def service(obs_id, **cards):
    """A header of the telescope's header service, with what it always has."""
    _, controller, day, number = obs_id.split("_")
    return {
        "INSTRUME": "LATISS", "TIMESYS": "TAI", "OBSID": obs_id, "CONTRLLR": controller,
        "DAYOBS": day, "SEQNUM": int(number), "LSST_NUM": None, "CCD_SERN": None,
        "FILENAME": f"{obs_id}.fits", **cards,
    }  # fmt: skip


KNOWN = [
    Known(
        "2018-09-20",
        {
            "INSTRUME": "LSST_ATISS", "DATE-OBS": "2018-09-21T06:12:18.210", "EXPTIME": 27.0,
            "OBSID": "AT_C_20180920_000065", "CONTRLLR": "C", "DAYOBS": "20180920", "SEQNUM": 65,
            "LSST_NUM": "ITL-3800C-098", "DETSIZE": "[1:4072,1:4000]",
        },
        3018092000065, "unknown", "unknown~unknown", 27, 27,
        {"detector_serial": "ITL-3800C-098", "day_obs": 20180920},
    ),
    Known(
        "AT_O_20190306_000014",
        {
            "INSTRUME": "LATISS", "IMGNAME": "AT_O_20190306_000014", "OBS-NITE": "20190306",
            "DATE-OBS": "2019-03-06T19:37:54.309", "LSST_NUM": "ITL-3800C-098", "EXPTIME": 1.06,
            "IMGTYPE": None, "FILTER": None, "GRATING": None, "OBJECT": None,
        },
        2019030600014, "unknown", "unknown~unknown", 1.06, 1.06,
        {"detector_serial": "ITL-3800C-098", "obs_id": "AT_O_20190306_000014"},
    ),
    Known(
        "AT_O_20190329_000022",
        service(
            "AT_O_20190329_000022", OBSTYPE=None, GROUPID="bias", CONTRLLR=None, EXPTIME=None,
            DARKTIME=None, **{"DATE-OBS": "2019-03-29T16:57:37.055"},
        ),
        2019032900022, "bias", "unknown~unknown", 0, 0,
    ),
    Known(
        "AT_O_20190915_000037",
        service(
            "AT_O_20190915_000037", OBSTYPE=None, GROUPID="bias_0027_0100", EXPTIME=0.0,
            LSST_NUM="ITL-3800C-098",
            **{"DATE-OBS": "2019-09-15T18:13:32.400", "DATE-END": "2019-09-15T18:13:27.435"},
        ),
        2019091500037, "bias", "unknown~unknown", 0, 0,
        {"group": "bias_0027_0100", "detector_serial": "ITL-3800C-068"},
    ),
    Known(
        "AT_O_20191031_000004",
        service(
            "AT_O_20191031_000004", IMGTYPE="OBJECT", GROUPID="TEST01", EXPTIME=3.0, DARKTIME=0.0,
            DATE="2019-11-01T02:45:33.770", MJD=58788.1149741856, **STUCK,
        ),
        2019103100004, "engtest", "unknown~unknown", 3, 3,
    ),
    Known(
        "AT_O_20191113_000061",
        service(
            "AT_O_20191113_000061", IMGTYPE="OBJECT", GROUPID="wave,Focus,455,32.0PH=5um",
            FILTER="empty_1", GRATING="ronchi90lpmm", EXPTIME=0.5, DARKTIME=0.0,
            DATE="2019-11-13T22:13:22.737", MJD=58800.9259576057, **STUCK,
        ),
        2019111300061, "engtest", "empty~ronchi90lpmm", 0.5, 0.5,
    ),
    Known(
        "AT_O_20191118_000011",
        service(
            "AT_O_20191118_000011", IMGTYPE="DARK", GROUPID="dark_0002_0005", FILTER="disperser",
            GRATING="ronchi170lpmm", EXPTIME=15.0, DARKTIME=0.0,
            DATE="2019-11-18T23:07:53.453", MJD=58805.9638131126, **STUCK,
        ),
        2019111800011, "dark", "diffuser~ronchi170lpmm", 15, 15, {"group": "dark_0002_0005"},
    ),
    Known(
        "AT_O_20200121_000045",
        service(
            "AT_O_20200121_000045", IMGTYPE="OBJECT", GROUPID="test", FILTER="blank_bk7_wg05",
            GRATING="empty_1", EXPTIME=100.0, DARKTIME=0.0,
            DATE="2020-01-21T23:41:04.593", MJD=58869.9868587167, **STUCK,
        ),
        2020012100045, "engtest", "blank_bk7_wg05~empty", 100, 100,
    ),
    Known(
        "AT_O_20200128_000379",
        service(
            "AT_O_20200128_000379", IMGTYPE="OBJECT", OBJECT="HD107696", FILTER="KPNO_406_828nm",
            GRATING="empty_1", EXPTIME=5.0, DARKTIME=0.0, GROUPID="2020-01-29T07:25:52.166",
            **{"DATE-OBS": "2020-01-29T07:25:52.373", "DATE-BEG": "2020-01-29T07:25:52.373",
               "DATE-END": "2020-01-29T07:26:37.217"},
        ),
        2020012800379, "science", "KPNO_406_828nm~empty", 5, 5, {"target_name": "HD107696"},
    ),
    Known(
        "AT_O_20220405_000349",
        service(
            "AT_O_20220405_000349", IMGTYPE="OBJECT", OBJECT="LATISS_E6A_00000040",
            PROGRAM="LATISS_E6A", REASON=None, TESTTYPE="OBJECT", FILTER="SDSSr",
            GRATING="empty_1", EXPTIME=30.0, DARKTIME=30.2387452125549,
            GROUPID="2022-04-06T02:58:07.181", **{"DATE-BEG": "2022-04-06T03:00:01.608"},
        ),
        2022040500349, "science", "SDSSr~empty", 30, 30.2387452,
        {"science_program": "LATISS_E6A", "group": "2022-04-06T02:58:07.181",
         "observation_reason": "object"},
    ),
    Known(
        "AT_C_20220426_000004",
        service(
            "AT_C_20220426_000004", IMGTYPE="UNKNOWN", DARKTIME=537.406, EXPTIME=None,
            OBJECT=None, **{"DATE-OBS": "2022-04-26T23:36:20.879", "DATE-BEG": None},
        ),
        3022042600004, "unknown", "unknown~unknown", -1, 537.406,
    ),
    Known(
        "AT_O_20230321_000053",
        service(
            "AT_O_20230321_000053", IMGTYPE="DARK", FILTER="empty_1", GRATING="empty_1",
            EXPTIME=30.0, DARKTIME=30.0126, **{"DATE-BEG": "2023-03-21T16:11:07.706"},
        ),
        2023032100053, "dark", "empty~empty", 30, 30.0126,
    ),
    Known(
        "AT_O_20230705_000379",
        service(
            "AT_O_20230705_000379", IMGTYPE="OBJECT", FILTER="empty_1", GRATING="holo4_003",
            PROGRAM="BLOCK-59", EXPTIME=30.0, DARKTIME=30.2418,
            **{"DATE-BEG": "2023-07-06T02:46:35.609"},
        ),
        2023070500379, "science", "empty~holo4_003", 30, 30.2418, {"science_program": "BLOCK-59"},
    ),
    Known(
        "AT_O_20240624_000106",
        service(
            "AT_O_20240624_000106", IMGTYPE="CWFS", FILTER="SDSSr_65mm", GRATING="empty_1",
            EXPTIME=30.0, DARKTIME=30.2407, GROUPID="2024-06-25T01:26:31.895#1", REASON="INTRA",
            **{"DATE-BEG": "2024-06-25T01:27:55.160"},
        ),
        2024062400106, "cwfs", "SDSSr_65mm~empty", 30, 30.2407, {"observation_reason": "intra"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_known_answers(known):
    assert LATISS.claims(known.header)
    info = LATISS.translate(known.header)
    assert info.exposure == known.exposure
    assert info.observation_type == known.kind
    assert info.physical_filter == known.physical_filter
    assert info.exposure_time == known.exposure_time
    assert info.dark_time == pytest.approx(known.dark_time, abs=1e-6)
    assert (info.exposure - info.day_obs * 100_000 - info.seq_num) % 10**12 == 0
    assert info.end >= info.begin
    for name, value in known.more.items():
        assert getattr(info, name) == value


BIAS = service(
    "AT_O_20210525_000015", IMGTYPE="BIAS", EXPTIME=0.0, FILTER="empty_1", GRATING="empty_1",
    OBJECT="x", **{"DATE-OBS": "2021-05-25T18:00:00.500", "DATE-BEG": "2021-05-25T18:00:00.500"},
)  # fmt: skip


def test_times_are_tai_and_exact():
    info = LATISS.translate({**BIAS, "DATE-END": "2021-05-25T18:00:02.250"})
    assert info.begin == parse_time("2021-05-25T18:00:00.5")
    assert format_time(info.end) == "2021-05-25T18:00:02.25"
    utc = LATISS.translate({**BIAS, "TIMESYS": "UTC"})
    assert utc.begin - info.begin == 37_000_000_000


def test_begin_from_mjd_when_there_is_no_date():
    header = {k: v for k, v in BIAS.items() if not k.startswith("DATE-")}
    info = LATISS.translate({**header, "MJD-BEG": 59359.75})
    assert info.begin == parse_time("2021-05-25T18:00:00")


def test_dark_time_shorter_than_the_exposure_is_not_believed():
    assert LATISS.translate({**BIAS, "EXPTIME": 10.0, "DARKTIME": 9.0}).dark_time == 10.0
    assert LATISS.translate({**BIAS, "EXPTIME": 10.0, "DARKTIME": 10.5}).dark_time == 10.5


def test_binning_is_read():
    assert LATISS.translate({**BIAS, "BINX": 2, "BINY": 4}).binning == (2, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"CONTRLLR": "X"}, "Controller 'X'"),
        ({"DAYOBS": "2021"}, "not a day"),
        ({"SEQNUM": 100000}, "between 0 and 99999"),
        ({"SEQNUM": None, "OBSID": "odd", "FILENAME": "odd"}, "no usable SEQNUM"),
        ({"EXPTIME": "long"}, "not a number"),
        ({"DATE-BEG": None, "DATE-OBS": None}, "no time"),
        ({"DATE-BEG": "yesterday"}, "DATE-BEG"),
    ],
)
def test_headers_that_cannot_be_used(change, words):
    with pytest.raises(DataError, match=words):
        LATISS.translate({**BIAS, **change})


def test_exposure_ids_of_controllers_do_not_collide_until_they_share_numbers():
    ids = {exposure_id(20220426, 4, letter) for letter in "OCHPQS"}
    assert ids == {202204260_0004 + step * 10**12 for step in range(6)}
    assert exposure_id(20231004, 1, "C") == 3023100400001
    assert exposure_id(20231005, 1, "C") == exposure_id(20231005, 1, "O") == 2023100500001
    assert exposure_id(20250417, 1, "S") == 7025041700001
    assert exposure_id(20250418, 1, "S") == 2025041800001


# One header per fix: what it must change, and that it changes nothing on a sound header of 2023.
SOUND = service(
    "AT_O_20230705_000379", IMGTYPE="OBJECT", OBJECT="spec:HD 1", FILTER="disperser",
    GROUPID="bias_1", EXPTIME=30.0, LSST_NUM="ITL-3800C-068",
    **{"DATE-OBS": "2023-07-06T02:46:35.609", "DATE-END": "2023-07-06T02:47:05.609"},
)  # fmt: skip
EARLY = {**SOUND, "DATE-OBS": "2019-10-01T00:00:00.000"}
MENDING = {
    "DATE-OBS": ({**SOUND, **STUCK, "DATE": "2020-03-01T01:00:00"}, "2020-03-01T01:00:00"),
    "DATE-END": (EARLY, None),
    "OBSID": ({**SOUND, "OBSID": None, "FILENAME": "x_AT_C_20180920_000065.fits"},
              "AT_C_20180920_000065"),
    "DAYOBS": ({**SOUND, "DAYOBS": None}, "20230705"),
    "LSST_NUM": ({**SOUND, "LSST_NUM": "ITL-3800C-098"}, "ITL-3800C-068"),
    "IMGTYPE": (EARLY, "BIAS"),
    "EXPTIME": ({**EARLY, "EXPTIME": None}, 0.0),
    "OBJECT": ({k: v for k, v in SOUND.items() if k != "OBJECT"}, "NOTSET"),
    "FILTER": (EARLY, "diffuser"),
}  # fmt: skip


@pytest.mark.parametrize("keyword", sorted({fix.keyword for fix in FIXES}))
def test_every_fix_has_a_header_that_needs_it(keyword):
    header, value = MENDING[keyword]
    assert header.get(keyword, "absent") != value
    assert mended(header)[keyword] == value


def test_fixes_leave_a_sound_header_alone():
    assert mended(SOUND) == SOUND


def test_fixes_end_and_begin_on_their_days():
    before, after = "2019-06-23T23:59:59.999", SENSOR_CHANGE
    old = {**SOUND, "LSST_NUM": "ITL-3800C-098", "DATE-OBS": before}
    assert mended(old)["LSST_NUM"] == "ITL-3800C-098"
    assert mended({**old, "DATE-OBS": after})["LSST_NUM"] == "ITL-3800C-068"
    engineering = {**SOUND, "GROUPID": None}
    for moment, kind in (("2020-01-27T19:59:59", "ENGTEST"), ("2020-01-27T20:00:00", "OBJECT")):
        assert mended({**engineering, "DATE-OBS": moment})["IMGTYPE"] == kind
    for moment, name in (("2022-07-09T23:59:59", "HD 1"), ("2022-07-10T00:00:00", "spec:HD 1")):
        assert mended({**SOUND, "DATE-OBS": moment})["OBJECT"] == name
    focus = {**EARLY, "GROUPID": "Focus 3"}
    assert mended(focus)["IMGTYPE"] == "FOCUS"


class TestLatissContract(InstrumentContract):
    instrument = LATISS
    headers = [known.header for known in KNOWN if known.exposure_time >= 0]


class TestMiniContract(InstrumentContract):
    instrument = LatissMini()
