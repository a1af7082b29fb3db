"""Scratch frames: they come back whole, in rows, and an unfinished one is noticed."""

import errno

import numpy as np
import pytest

from cpplug.api import (
    AmplifierNoise,
    DataError,
    Exposure,
    ExposureInfo,
    RepositoryError,
    camera_from,
)
from cpplug.engine import frames
from cpplug.engine.frames import FrameFile, frame_exists, remove_frame, write_frame

INFO = ExposureInfo(
    instrument="one", exposure=1, obs_id="one", day_obs=20240101, seq_num=1,
    observation_type="bias", exposure_time=0.0, dark_time=0.0, begin=5, end=6, temperature=-90.5,
)  # fmt: skip
AMP = {"name": "a", "source": [0, 0, 6, 5], "data": [0, 0, 6, 5], "bbox": [0, 0, 6, 5]}
DETECTOR = camera_from(
    {"name": "one", "detector": [{"id": 0, "name": "D", "amplifiers": [AMP]}]}
).detector(0)


def exposure(masked=True, variance=True):
    image = np.arange(30, dtype=np.float32).reshape(5, 6)
    made = Exposure(INFO, DETECTOR, image, variance=image + 1 if variance else None)
    made.mask[2, 3] = 5 if masked else 0
    made.unit = "electron"
    made.record("read_noise", 2.5, "adu", "a")
    made.series["level", "a"] = np.array([1.0, np.nan, 3.0])
    made.noise["a"] = AmplifierNoise(1.5, 2.5)
    return made


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("variance", [True, False])
def test_a_frame_comes_back(tmp_path, masked, variance):
    made = exposure(masked, variance)
    write_frame(tmp_path / "deep" / "f", made)
    file = FrameFile(tmp_path / "deep" / "f")
    assert file.info == INFO
    assert file.shape == (5, 6)
    np.testing.assert_array_equal(file.image_rows(1, 3), made.image[1:3])
    assert (file.mask_rows(2, 3) is None) is not masked
    assert (file.variance_rows(0, 5) is None) is not variance
    if masked:
        assert file.mask_rows(2, 3)[0, 3] == 5
    if variance:
        np.testing.assert_array_equal(file.variance_rows(0, 5), made.variance)
    back = file.load(DETECTOR)
    back.image += 1  # a copy: the file does not change
    np.testing.assert_array_equal(file.image_rows(0, 5), made.image)
    np.testing.assert_array_equal(back.mask, made.mask)
    assert (back.unit, back.measurements, back.noise) == ("electron", made.measurements, made.noise)
    np.testing.assert_array_equal(back.series["level", "a"], made.series["level", "a"])


def test_a_rewritten_frame_keeps_nothing_of_the_old(tmp_path):
    write_frame(tmp_path / "f", exposure())
    write_frame(tmp_path / "f", exposure(masked=False, variance=False))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.image.npy", "f.notes"]


def test_a_frame_without_notes_does_not_count(tmp_path):
    write_frame(tmp_path / "f", exposure())
    assert frame_exists(tmp_path / "f")
    (tmp_path / "f.notes").unlink()
    assert not frame_exists(tmp_path / "f")
    with pytest.raises(DataError, match="missing or incomplete"):
        FrameFile(tmp_path / "f")


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_plane_is_noticed(tmp_path, damage):
    write_frame(tmp_path / "f", exposure())
    path = tmp_path / "f.image.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "gone":
        path.unlink()
    else:
        np.save(path, np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match="missing or incomplete"):
        FrameFile(tmp_path / "f").image_rows(0, 1)


def test_a_frame_of_another_detector(tmp_path):
    write_frame(tmp_path / "f", exposure())
    other = camera_from(
        {"name": "one", "detector": [{"id": 1, "name": "E", "amplifiers": [AMP]}]}
    ).detector(1)
    with pytest.raises(DataError, match="is of detector D"):
        FrameFile(tmp_path / "f").load(other)


def test_a_full_disk_leaves_no_frame(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    save = np.save
    monkeypatch.setattr(
        frames.np, "save", lambda path, plane: full() if "mask" in str(path) else save(path, plane)
    )
    with pytest.raises(RepositoryError, match="No space left on device"):
        write_frame(tmp_path / "f", exposure())
    assert list(tmp_path.iterdir()) == []


def test_removal(tmp_path):
    write_frame(tmp_path / "f", exposure())
    remove_frame(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    remove_frame(tmp_path / "f")
