"""Reading raw frames: where pixels come from, every form of file, and one sentence per fault."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import DataError, ExposureInfo, camera_from
from cpplug.engine.fits import read_headers, read_raw

INFO = ExposureInfo(
    instrument="two", exposure=1, obs_id="one", day_obs=20240101, seq_num=1,
    observation_type="bias", exposure_time=0.0, dark_time=0.0, begin=0, end=0,
)  # fmt: skip


def camera(hdu=("A", "B"), **amplifier):
    """Two amplifiers, 6 x 4 pixels each (4 of data), one extension each."""
    shared = {"source": [0, 0, 6, 4], "data": [0, 0, 4, 4], "serial_overscan": [4, 0, 2, 4]}
    amps = [
        {"name": f"amp{i}", "hdu": hdu[i], "bbox": [4 * i, 0, 4, 4], **amplifier} for i in range(2)
    ]
    document = {"name": "two", "amplifier": shared,
                "detector": [{"id": 0, "name": "D", "amplifiers": amps}]}  # fmt: skip
    return camera_from(document).detector(0)


def write(path, data, kind=astropy_fits.ImageHDU, names=("A", "B"), primary=None):
    hdus = [primary or astropy_fits.PrimaryHDU()]
    hdus += [kind(data[i], name=name) for i, name in enumerate(names)]
    astropy_fits.HDUList(hdus).writeto(path)
    return path


def pixels(dtype="int32", count=2, shape=(4, 6)):
    rng = np.random.default_rng(3)
    return [rng.integers(0, 60000 if dtype == "uint16" else 30000, shape).astype(dtype)
            for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32",
                                   "float64"])  # fmt: skip
def test_every_pixel_type(tmp_path, dtype):
    data = [image % 200 for image in pixels("int32")]
    data = [image.astype(dtype) for image in data]
    raw = read_raw(write(tmp_path / "f.fits", data), INFO, camera())
    for i in range(2):
        segment = raw.segments[f"amp{i}"]
        assert segment.dtype == np.float32
        assert segment.flags.writeable
        np.testing.assert_array_equal(segment, data[i])
    assert list(raw.segments) == ["amp0", "amp1"]


@pytest.mark.parametrize("dtype", ["int32", "uint16"])
@pytest.mark.parametrize("form", ["plain", "gzip", "RICE_1", "GZIP_1", "HCOMPRESS_1"])
def test_every_form_of_file_gives_the_same_pixels(tmp_path, form, dtype):
    data = pixels(dtype, shape=(4, 6))
    if form in {"plain", "gzip"}:
        path = write(tmp_path / "f.fits", data)
    else:

        def kind(image, name):
            return astropy_fits.CompImageHDU(image, name=name, compression_type=form)

        path = write(tmp_path / "f.fits", data, kind)  # fmt: skip
    if form == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    raw = read_raw(path, INFO, camera())
    np.testing.assert_array_equal(raw.segments["amp1"], data[1])
    headers = read_headers(path)
    assert [h.get("EXTNAME") for h in headers] == [None, "A", "B"]
    assert (headers[1]["NAXIS1"], headers[1]["NAXIS2"]) == (6, 4)
    assert not any(key.startswith(("Z", "TTYPE", "TFORM")) for key in headers[1])


def test_scaled_pixels_and_blanks(tmp_path):
    stored = np.array([[0, 100, -32768]], np.int16)
    hdu = astropy_fits.PrimaryHDU(stored)
    path = tmp_path / "f.fits"
    hdu.writeto(path)
    with astropy_fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header.update(BSCALE=0.5, BZERO=10.0, BLANK=-32768)
    amp = {"name": "a", "source": [0, 0, 3, 1], "data": [0, 0, 3, 1], "bbox": [0, 0, 3, 1]}
    detector = camera_from(
        {"name": "x", "detector": [{"id": 0, "name": "D", "amplifiers": [amp]}]}
    ).detector(0)
    np.testing.assert_array_equal(read_raw(path, INFO, detector).segments["a"],
                                  [[10.0, 60.0, np.nan]])  # fmt: skip


def test_a_large_zero_point_loses_nothing_it_need_not(tmp_path):
    data = [np.full((4, 6), 2**31 + 5, np.uint32)] * 2
    raw = read_raw(write(tmp_path / "f.fits", data), INFO, camera())
    assert raw.segments["amp0"][0, 0] == np.float32(2**31 + 5)
    small = [np.full((4, 6), 7, np.uint32)] * 2
    raw = read_raw(write(tmp_path / "g.fits", small), INFO, camera())
    assert raw.segments["amp0"][0, 0] == 7


def test_a_packed_primary_image_is_found_as_the_primary(tmp_path):
    """What fpack makes of a single-image file: the cards stand in the first extension."""
    data = pixels("uint16", 1)[0]
    hdu = astropy_fits.CompImageHDU(data)
    path = tmp_path / "f.fits.fz"
    hdu.header["OBJECT"] = "Bias"
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), hdu]).writeto(path)
    with astropy_fits.open(path, mode="update", disable_image_compression=True) as hdus:
        del hdus[1].header["ZTENSION"]
        hdus[1].header["ZSIMPLE"] = True
    assert read_headers(path)[0]["OBJECT"] == "Bias"
    amp = {"name": "a", "source": [0, 0, 6, 4], "data": [0, 0, 6, 4], "bbox": [0, 0, 6, 4]}
    detector = camera_from(
        {"name": "x", "detector": [{"id": 0, "name": "D", "amplifiers": [amp]}]}
    ).detector(0)
    np.testing.assert_array_equal(read_raw(path, INFO, detector).segments["a"], data)


@settings(max_examples=25, deadline=None)
@given(flip_x=st.booleans(), flip_y=st.booleans(), cut=st.integers(1, 5), seed=st.integers(0, 99))
def test_pieces_are_joined_and_turned_as_an_index_formula_says(flip_x, flip_y, cut, seed):
    """Two amplifiers in one extension, data left, overscan on the far right, any flips."""
    import tempfile

    rng = np.random.default_rng(seed)
    image = rng.integers(0, 1000, (3, 2 * 6)).astype(np.int32)
    amps = [
        {"name": f"a{i}", "hdu": 0, "source_flip_x": flip_x, "source_flip_y": flip_y,
         "source": [[i * cut, 0, cut, 3], [2 * cut + i * (6 - cut), 0, 6 - cut, 3]],
         "data": [0, 0, cut, 3], "bbox": [i * cut, 0, cut, 3]}
        for i in range(2)
    ]  # fmt: skip
    detector = camera_from(
        {"name": "x", "detector": [{"id": 0, "name": "D", "amplifiers": amps}]}
    ).detector(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.fits"
        astropy_fits.PrimaryHDU(image).writeto(path)
        raw = read_raw(path, INFO, detector)
    for i in range(2):
        for y in range(3):
            for x in range(6):
                from_y = 2 - y if flip_y else y
                joined = 5 - x if flip_x else x
                column = (
                    i * cut + joined if joined < cut else 2 * cut + i * (6 - cut) + joined - cut
                )
                assert raw.segments[f"a{i}"][y, x] == image[from_y, column]


def test_headers_say_what_the_cards_say(tmp_path):
    path = tmp_path / "f.fits"
    text = [
        "SIMPLE  =                    T", "BITPIX  =                    8",
        "NAXIS   =                    0", "OBSTYPE = 'DARK    '", "OBSTYPE =                    0",
        "EMPTY   =", "COMMENT nothing", "ODD     = 12:34:56.7 / no quotes", "FLAG    =    F",
        "HIERARCH ESO DET GAIN = 1.25", "NAME    = 'O''Brien '", "END",
    ]  # fmt: skip
    block = "".join(f"{card:80}" for card in text)
    path.write_text(f"{block:2880}", encoding="ascii")
    header = read_headers(path)[0]
    assert header["OBSTYPE"] == "DARK"  # of a repeated keyword the first counts
    assert header["EMPTY"] is None
    assert header["FLAG"] is False
    assert header["ODD"] == "12:34:56.7 / no quotes"
    assert header["ESO DET GAIN"] == 1.25
    assert header["NAME"] == "O'Brien"
    assert "COMMENT" not in header


# ---- bad input: one clear sentence each ------------------------------------------------------
def test_a_file_cut_anywhere_is_called_truncated(tmp_path):
    path = write(tmp_path / "f.fits", pixels())
    content = path.read_bytes()
    for length in (1000, 2880 + 1000, 2880 * 2 + 10, len(content) - 2880 - 2880 + 50):
        path.write_bytes(content[:length])
        for read in (read_headers, lambda p: read_raw(p, INFO, camera())):
            with pytest.raises(DataError, match=f"{path.name} is truncated") as caught:
                read(path)
            assert caught.value.next_step


@pytest.mark.parametrize("length", [50, 300])
def test_a_gzipped_file_cut_short(tmp_path, length):
    path = write(tmp_path / "f.fits", pixels())
    path.write_bytes(gzip.compress(path.read_bytes())[:length])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_raw(path, INFO, camera())


def test_a_missing_segment_is_named(tmp_path):
    path = write(tmp_path / "f.fits", pixels(), names=("A",))
    with pytest.raises(DataError, match="no extension 'B', where amplifier amp1 should be") as e:
        read_raw(path, INFO, camera())
    assert "it has 0, A" in e.value.message
    with pytest.raises(DataError, match="no extension number 4"):
        read_raw(path, INFO, camera(hdu=(1, 4)))


def test_extension_names_are_found_whatever_their_case(tmp_path):
    path = write(tmp_path / "f.fits", pixels(), names=("Segment10", "SEGMENT11"))
    raw = read_raw(path, INFO, camera(hdu=("SEGMENT10", "Segment11")))
    np.testing.assert_array_equal(raw.segments["amp1"], pixels()[1])


@pytest.mark.parametrize("shape", [(4, 5), (4, 7), (3, 6), (2, 3)])
def test_a_wrong_shape_says_what_it_is_and_should_be(tmp_path, shape):
    path = write(tmp_path / "f.fits", pixels(shape=shape))
    with pytest.raises(DataError, match=f"A has {shape[1]} x {shape[0]} pixels .* 6 x 4"):
        read_raw(path, INFO, camera())


def test_binned_pixels_are_called_binned(tmp_path):
    from msgspec.structs import replace

    path = write(tmp_path / "f.fits", pixels(shape=(2, 3)))
    with pytest.raises(DataError, match="is binned 2 x 2: extension A has 3 x 2 pixels"):
        read_raw(path, replace(INFO, binning=(2, 2)), camera())


def test_an_extension_without_pixels(tmp_path):
    path = write(tmp_path / "f.fits", pixels())
    with pytest.raises(DataError, match="extension 0 has no pixels"):
        read_raw(path, INFO, camera(hdu=(0, 0)))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG" + bytes(5000), bytes(2880)])
def test_what_is_not_fits_is_said_not_to_be(tmp_path, content):
    path = tmp_path / "f.fits"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"f\.fits is not a FITS file"):
        read_headers(path)


def test_a_file_that_is_gone_or_a_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_headers(tmp_path / "none.fits")
    with pytest.raises(DataError, match="cannot be read"):
        read_headers(tmp_path)


def test_damaged_compressed_pixels(tmp_path):
    def kind(image, name):
        return astropy_fits.CompImageHDU(image, name=name, compression_type="GZIP_1")

    path = write(tmp_path / "f.fits", pixels(), kind)
    content = bytearray(path.read_bytes())
    marks = [i for i in range(len(content) - 1) if content[i : i + 2] == b"\x1f\x8b"]
    assert marks
    for mark in marks:
        content[mark : mark + 12] = b"\xff" * 12
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be decompressed"):
        read_raw(path, INFO, camera())


def test_a_header_without_sizes(tmp_path):
    path = tmp_path / "f.fits"
    cards = ["SIMPLE  =                    T", "BITPIX  =                   13",
             "NAXIS   =                    1", "NAXIS1  =                    5", "END"]  # fmt: skip
    path.write_text(f"{''.join(f'{card:80}' for card in cards):2880}", encoding="ascii")
    with pytest.raises(DataError, match="does not say how large"):
        read_headers(path)
