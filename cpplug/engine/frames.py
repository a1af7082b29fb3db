"""Frames between ISR and combination, on scratch disk, laid out so that rows can be read at once.

A frame is up to four files with one stem: the image, the mask if any bit is set, the variance if
there is such a plane (plain numpy arrays), and the notes (header facts, measurements, series,
noise). The notes are written last: a frame that has notes is complete. Scratch files survive a
killed process, so that a run can be resumed; they are not forced to the disk one by one.
"""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cpplug.api.camera import Detector
from cpplug.api.errors import DataError, RepositoryError
from cpplug.api.exposure import AmplifierNoise, Exposure, Image, Mask, Measurement
from cpplug.api.instrument import ExposureInfo


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of an exposure that is not a pixel."""

    info: ExposureInfo
    detector: str
    shape: tuple[int, int]
    unit: str
    masked: bool
    has_variance: bool
    measurements: list[Measurement]
    series: list[tuple[str, str, bytes]]
    """Name, scope, little-endian float64 values."""
    noise: dict[str, AmplifierNoise]


def _files(stem: Path) -> dict[str, Path]:
    return {
        kind: stem.with_name(f"{stem.name}.{kind}")
        for kind in ("image.npy", "mask.npy", "variance.npy", "notes")
    }


def write_frame(stem: Path, exposure: Exposure) -> None:
    """Write a frame as ``<stem>.image.npy`` and so on; an older one of that stem is replaced.

    Raises
    ------
    RepositoryError
        When the scratch folder is full or cannot be written; nothing is left behind.
    """
    files = _files(stem)
    masked = bool(exposure.mask.any())
    planes: dict[str, npt.NDArray[Any] | None] = {
        "image.npy": exposure.image,
        "mask.npy": exposure.mask if masked else None,
        "variance.npy": exposure.variance,
    }
    notes = Notes(
        info=exposure.info,
        detector=exposure.detector.name,
        shape=(exposure.image.shape[0], exposure.image.shape[1]),
        unit=exposure.unit,
        masked=masked,
        has_variance=exposure.variance is not None,
        measurements=exposure.measurements,
        series=[
            (name, scope, np.asarray(values, "<f8").tobytes())
            for (name, scope), values in exposure.series.items()
        ],
        noise=exposure.noise,
    )
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in files.values():
            path.unlink(missing_ok=True)
        for kind, plane in planes.items():
            if plane is not None:
                np.save(files[kind], plane)
        part = stem.with_name(f"{stem.name}.part")
        part.write_bytes(msgspec.msgpack.encode(notes))
        part.replace(files["notes"])
    except OSError as error:
        remove_frame(stem)
        raise RepositoryError(
            f"Scratch frame {stem} could not be written: {error.strerror or error}.",
            "Free some space there, or choose another scratch folder.",
        ) from error


def remove_frame(stem: Path) -> None:
    """Delete all files of a frame, notes first."""
    for path in reversed(_files(stem).values()):
        path.unlink(missing_ok=True)
    stem.with_name(f"{stem.name}.part").unlink(missing_ok=True)


def frame_exists(stem: Path) -> bool:
    """Tell whether a complete frame of that stem is there."""
    return _files(stem)["notes"].exists()


class FrameFile:
    """A frame on disk, read a few rows at a time.

    Raises
    ------
    DataError
        When the frame is missing or incomplete, here or when rows are read.
    """

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        try:
            content = _files(stem)["notes"].read_bytes()
            self.notes = msgspec.msgpack.decode(content, type=Notes)
        except (OSError, msgspec.DecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"Scratch frame {self.stem} is missing or incomplete ({error}).",
            "Run the command again without --resume.",
        )

    def _rows(
        self, kind: str, first: int, stop: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Read some rows of a plane by position: mapped files would count as used memory."""
        path = _files(self.stem)[kind]
        try:
            with path.open("rb", buffering=0) as stream:
                major, _ = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0
                if major != 1:
                    raise ValueError("not a plain array file")
                shape, fortran, dtype = read(stream)
                if shape != self.shape or fortran:
                    raise ValueError(f"{kind} has shape {shape}")
                columns = self.shape[1]
                size = stream.tell() + self.shape[0] * columns * dtype.itemsize
                if os.fstat(stream.fileno()).st_size != size:
                    raise ValueError(f"{kind} is not {size} bytes long")
                rows = np.empty((stop - first, columns), dtype) if out is None else out
                stream.seek(first * columns * dtype.itemsize, os.SEEK_CUR)
                _fill(stream, rows)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        return rows

    def image_into(self, first: int, stop: int, out: Image) -> None:
        """Read rows ``first`` to ``stop`` (not included) of the image into a contiguous array."""
        self._rows("image.npy", first, stop, out)

    @property
    def info(self) -> ExposureInfo:
        """What the header of the exposure says."""
        return self.notes.info

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.notes.shape

    def image_rows(self, first: int, stop: int) -> Image:
        """Return rows ``first`` to ``stop`` (not included) of the image."""
        return self._rows("image.npy", first, stop)

    def mask_rows(self, first: int, stop: int) -> Mask | None:
        """Return rows of the mask, or None when no pixel of the frame is masked."""
        return self._rows("mask.npy", first, stop) if self.notes.masked else None

    def variance_rows(self, first: int, stop: int) -> Image | None:
        """Return rows of the variance plane, or None when the frame has none."""
        return self._rows("variance.npy", first, stop) if self.notes.has_variance else None

    def load(self, detector: Detector) -> Exposure:
        """Read the whole frame into memory, with its notes.

        Raises
        ------
        DataError
            When the frame is of another detector or size, or incomplete.
        """
        notes = self.notes
        if (detector.name, detector.shape) != (notes.detector, notes.shape):
            raise DataError(
                f"Scratch frame {self.stem} is of detector {notes.detector} {notes.shape}, not of "
                f"{detector.name} {detector.shape}."
            )
        exposure = Exposure(
            notes.info,
            detector,
            self.image_rows(0, self.shape[0]),
            self.mask_rows(0, self.shape[0]),
            FrameFile.variance_rows(self, 0, self.shape[0]),  # as stored: none stays none
        )
        exposure.unit = notes.unit
        exposure.measurements = list(notes.measurements)
        exposure.series = {
            (name, scope): np.frombuffer(values, "<f8").astype(np.float64)
            for name, scope, values in notes.series
        }
        exposure.noise = dict(notes.noise)
        return exposure


def _fill(stream: RawIOBase, rows: npt.NDArray[Any]) -> None:
    """Read the bytes of an array; a file system may deliver them in parts."""
    view = memoryview(rows.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            raise ValueError("the file ends too early")
        done += count
