"""LATISS files: geometry, the look of simulated frames, and the real ones in ../shared."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from cpplug.api import Calibs, ExposureInfo, NoConfig
from cpplug.api.times import NS_PER_SECOND, parse_time
from cpplug.engine.fits import read_headers, read_raw
from cpplug_isr.assemble import assemble
from cpplug_latiss import Latiss, LatissMini

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_headers = pytest.mark.skipif(
    not (SHARED / "latiss_headers").is_dir(), reason="../shared/data/latiss_headers is not here"
)
needs_assembly = pytest.mark.skipif(
    not (SHARED / "itl_assembly").is_dir(), reason="../shared/data/itl_assembly is not here"
)
HDU_ORDER = [f"C1{i}" for i in range(8)] + [f"C0{i}" for i in range(7, -1, -1)]
TABLE = [  # gain, read noise, left edge, in HDU order (algorithms.md E.2)
    (1.0811, 8.4, 0), (1.0470, 8.5, 509), (1.0795, 8.4, 1018), (1.0810, 8.6, 1527),
    (1.0644, 8.4, 2036), (1.0669, 8.4, 2545), (1.0795, 8.4, 3054), (1.0560, 8.0, 3563),
    (1.1033, 8.5, 3563), (1.1039, 10.0, 3054), (1.1047, 10.3, 2545), (1.0840, 9.7, 2036),
    (1.0939, 9.1, 1527), (1.0874, 9.4, 1018), (1.0933, 9.9, 509), (1.0972, 9.1, 0),
]  # fmt: skip
LATISS, MINI = Latiss(), LatissMini()
NO_CALIBS: Calibs = None  # type: ignore[assignment]


def exposure(instrument, day_obs=20210525, **more):
    text = f"{day_obs}"
    begin = parse_time(f"{text[:4]}-{text[4:6]}-{text[6:]}T18:00:00.123")
    seconds = more.pop("exposure_time", 15.0)
    facts = {
        "instrument": instrument.name, "exposure": day_obs * 100_000 + 77, "day_obs": day_obs,
        "seq_num": 77, "obs_id": f"AT_O_{day_obs}_000077", "observation_type": "dark",
        "exposure_time": seconds, "dark_time": seconds + 0.25, "begin": begin,
        "end": begin + round(seconds * NS_PER_SECOND), "physical_filter": "RG610~empty",
        "target_name": "UNKNOWN", "temperature": -90.0,
    }  # fmt: skip
    return ExposureInfo(**{**facts, **more})


def write(instrument, info, folder, seed=1, omit=()):
    """Write a frame as the simulator does, with noise for pixels; return path and pixels."""
    frame = instrument.simulated_frame(info, 0)
    rng = np.random.default_rng(seed)
    hdus = [astropy_fits.PrimaryHDU()]
    for key, value, comment in frame.primary:
        hdus[0].header.append((key, value, comment), end=True)
    pixels = {}
    for amp in instrument.camera.detector(0).amplifiers:
        if amp.hdu in omit:
            continue
        data = rng.normal(20000, 8, amp.shape).round().astype(frame.dtype)
        kind = astropy_fits.CompImageHDU if frame.compressed else astropy_fits.ImageHDU
        hdu = kind(data)
        for key, value, comment in frame.segments[amp.hdu]:
            hdu.header[key] = (value, comment)
        hdus.append(hdu)
        pixels[amp.name] = data
    path = folder / frame.file_name
    astropy_fits.HDUList(hdus).writeto(path)
    return path, pixels


def test_geometry_is_that_of_the_table():
    detector = LATISS.camera.detector("RXX_S00")
    assert detector.shape == (4000, 4072)
    assert [amp.name for amp in detector.amplifiers] == HDU_ORDER
    assert all(amp.shape == (2048, 576) for amp in detector.amplifiers)
    c07, c12 = detector.amplifier("C07"), detector.amplifier("C12")
    assert (c07.hdu, c07.gain, c07.read_noise) == ("Segment07", 1.1033, 8.5)
    assert (c07.flip_x, c07.flip_y, (c07.bbox.x, c07.bbox.y)) == (True, False, (3563, 0))
    assert (c12.flip_x, c12.flip_y, (c12.bbox.x, c12.bbox.y)) == (True, True, (1018, 2000))
    for amp, (gain, noise, x) in zip(detector.amplifiers, TABLE, strict=True):
        assert (amp.gain, amp.read_noise, amp.bbox.x) == (gain, noise, x)
        assert (amp.bbox.y, amp.flip_y) == ((2000, True) if amp.name[1] == "1" else (0, False))


def test_the_mini_is_the_same_camera():
    for big, small in zip(LATISS.camera.detector(0).amplifiers,
                          MINI.camera.detector(0).amplifiers, strict=True):  # fmt: skip
        for name in ("name", "hdu", "flip_x", "flip_y", "gain", "read_noise", "saturation"):
            assert getattr(big, name) == getattr(small, name)
        assert big.prescan.width == small.prescan.width == 3


@pytest.mark.parametrize("day_obs", [20200128, 20210525, 20220301, 20230321])
@pytest.mark.parametrize("kind", ["bias", "dark", "flat", "science"])
def test_what_a_simulated_header_says_comes_back(tmp_path, day_obs, kind):
    info = exposure(MINI, day_obs, observation_type=kind, exposure_time=0.0 if kind == "bias" else
                    30.0, science_program="BLOCK-1", observation_reason="flats")  # fmt: skip
    path, _ = write(MINI, info, tmp_path)
    headers = read_headers(path)
    again = MINI.translate(MINI.header_of(path, headers))
    expected = {field: getattr(info, field) for field in info.__struct_fields__}
    expected |= {
        "group": again.group,
        "detector_serial": "ITL-3800C-068",
    }
    assert {field: getattr(again, field) for field in again.__struct_fields__} == expected


@pytest.mark.parametrize(("day_obs", "name", "datasec", "prescan", "compressed"), [
    (20200128, "2020012800077-det000.fits", "[4:63,1:72]", 3, False),
    (20210525, "AT_O_20210525_000077-R00S00.fits", "[1:60,1:72]", 0, False),
    (20220301, "AT_O_20220301_000077_R00_S00.fits", "[1:60,1:72]", 0, False),
    (20230321, "AT_O_20230321_000077_R00_S00.fits", "[4:63,1:72]", None, True),
])  # fmt: skip
def test_each_era_has_its_look(tmp_path, day_obs, name, datasec, prescan, compressed):
    path, pixels = write(MINI, exposure(MINI, day_obs), tmp_path)
    assert path.name == name
    headers = read_headers(path)
    assert [header.get("EXTNAME") for header in headers[1:]] == ["Segment" + n[1:] for n in
                                                                 HDU_ORDER]  # fmt: skip
    assert all(header["DATASEC"] == datasec and header["INHERIT"] is True for header in headers[1:])
    assert headers[0].get("PREH") == prescan
    with astropy_fits.open(path, disable_image_compression=True) as raw:
        assert all(("ZIMAGE" in hdu.header) is compressed for hdu in raw[1:])
    exposed = read_raw(path, exposure(MINI, day_obs), MINI.camera.detector(0))
    for name_, data in pixels.items():
        np.testing.assert_array_equal(exposed.segments[name_], data)


def test_cards_fit_their_line():
    for day_obs in (20210525, 20230321):
        frame = LATISS.simulated_frame(exposure(LATISS, day_obs), 0)
        header = astropy_fits.Header()
        for card in frame.primary:
            header.append(card, end=True)
        assert header["CONTRLLR"] == "O"
        text = header.tostring()  # a comment that does not fit warns, which is an error here
        keywords = [card[0] for card in frame.primary if card[0] != "COMMENT"]
        assert len(keywords) == len(set(keywords))
        assert "{" not in text


def test_full_size_headers_as_written_in_2021():
    frame = LATISS.simulated_frame(exposure(LATISS), 0)
    cards = {name: {c[0]: c[1] for c in segment} for name, segment in frame.segments.items()}
    assert cards["Segment10"] == {
        "INHERIT": True, "EXTNAME": "Segment10", "DATASEC": "[1:509,1:2000]",
        "DETSEC": "[509:1,1:2000]", "DETSIZE": "[1:4072,1:4000]", "DTV1": 510, "DTV2": 0,
        "DTM1_1": -1.0, "DTM2_2": 1.0, "DTM1_2": 0, "DTM2_1": 0,
    }  # fmt: skip
    primary = {card[0]: card[1] for card in frame.primary}
    assert (primary["OVERH"], primary["OVERV"]) == (64, 48)
    assert (primary["PREH"], primary["TIMESYS"], primary["LSST_NUM"]) == (0, "TAI", "ITL-3800C-068")
    assert primary["OBSID"] == "AT_O_20210525_000077"
    assert "DETSIZE" not in primary
    early = LATISS.simulated_frame(exposure(LATISS, 20210210), 0)
    assert {card[0]: card[1] for card in early.primary}["LSST_NUM"] is None


def test_a_file_of_2021_has_the_size_of_a_file_of_2021():
    """75 582 720 bytes (algorithms.md E.3): sixteen segments, and twenty blocks of headers."""
    frame = LATISS.simulated_frame(exposure(LATISS), 0)
    cards = 4 + len(frame.primary) + 1  # SIMPLE, BITPIX, NAXIS, EXTEND, END
    segments = [7 + len(segment) + 1 for segment in frame.segments.values()]
    blocks = sum(-(-count * 80 // 2880) for count in (cards, *segments))
    pixels = -(-576 * 2048 * 4 // 2880) * 16
    assert (blocks + pixels) * 2880 == 75_582_720


@pytest.mark.parametrize(
    ("asked", "seen"),
    [("empty", "empty~empty"), ("RG610", "RG610~empty"), ("unknown", "unknown~unknown"),
     ("RG610~ronchi90lpmm", "RG610~ronchi90lpmm")],
)  # fmt: skip
def test_a_filter_alone_has_no_grating(asked, seen):
    frame = MINI.simulated_frame(exposure(MINI, physical_filter=asked), 0)
    header = {card[0]: card[1] for card in frame.primary}
    assert MINI.translate(header).physical_filter == seen


def test_an_exposure_of_another_controller_keeps_its_id():
    info = exposure(MINI, 20220426, exposure=3022042600077, obs_id="AT_C_20220426_000077")
    frame = MINI.simulated_frame(info, 0)
    again = MINI.translate({card[0]: card[1] for card in frame.primary})
    assert (again.exposure, again.obs_id) == (3022042600077, "AT_C_20220426_000077")


def test_big_and_small_never_claim_the_same_file():
    for day_obs in (20200128, 20210525, 20230321):
        for writer, other in ((LATISS, MINI), (MINI, LATISS)):
            primary = writer.simulated_frame(exposure(writer, day_obs), 0).primary
            header = {card[0]: card[1] for card in primary}
            assert writer.claims(header)
            assert not other.claims(header)
    assert not LATISS.claims({"INSTRUME": "COMCAM"})
    assert LATISS.claims({"DETNAME": "RXX_S00"})


@needs_headers
def test_real_headers():
    real = read_headers(SHARED / "latiss_headers" / "3018092000065-det000.fits.gz")
    assert LATISS.claims(real[0])
    assert not MINI.claims(real[0])
    info = LATISS.translate(real[0])
    assert (info.exposure, info.exposure_time) == (3018092000065, 27.0)
    assert info.detector_serial == "ITL-3800C-098"
    other = read_headers(SHARED / "latiss_headers" / "3019053000001-R22-S00-det000.fits.gz")
    assert not LATISS.claims(other[0])
    assert not MINI.claims(other[0])


@needs_headers
def test_segment_cards_agree_with_a_real_file():
    """Written by the same software, five years apart; 2018 has another column count in WCS."""
    real = read_headers(SHARED / "latiss_headers" / "3018092000065-det000.fits.gz")
    frame = LATISS.simulated_frame(exposure(LATISS, 20230321), 0)
    names = [header["EXTNAME"] for header in real[1:17]]
    assert names == list(frame.segments)
    moved = {"C": "CRVAL2C", "R": "CRVAL2R", "B": "CRVAL1B", "Q": "CRVAL1Q", "A": "CRVAL2A"}
    for header in real[1:17]:
        for key, value, _ in frame.segments[str(header["EXTNAME"])]:
            if key in moved.values():
                assert value == header[key] + 6.0
            elif key in header and key[-1] not in "FE":
                assert value == header[key], key
        assert LATISS.camera.detector(0).amplifier("C" + header["EXTNAME"][-2:]).shape == (
            header["NAXIS2"], header["NAXIS1"],
        )  # fmt: skip


@needs_assembly
def test_a_real_itl_frame_assembles_bit_for_bit():
    raw = read_raw(
        SHARED / "itl_assembly" / "itl_spot.fits.gz", exposure(LATISS), LATISS.camera.detector(0)
    )
    image = assemble(raw, NoConfig(), NO_CALIBS).image
    with astropy_fits.open(SHARED / "itl_assembly" / "itl_expected_assembled.fits.gz") as expected:
        np.testing.assert_array_equal(image, expected[0].data)
    assert image.sum() > 100_000
