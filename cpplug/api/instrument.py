"""An instrument: a camera file, defaults, and a translator from its headers to exposure facts.

To add a camera, subclass :class:`Instrument`, name a camera TOML file, and say how a header is
read. Everything else (reading pixels, assembling, simulating) follows from the camera file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from cpplug.api.camera import Camera, Detector, load_camera
from cpplug.api.times import format_time

HeaderValue = str | int | float | bool | None
Header = Mapping[str, HeaderValue]


class ExposureInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one exposure before its pixels are looked at.

    Times are TAI nanoseconds (``cpplug.api.times``); exposure and dark time are seconds.
    """

    instrument: str
    exposure: int
    """The exposure id: unique within the instrument."""
    obs_id: str
    day_obs: int
    """Observing day, YYYYMMDD."""
    seq_num: int
    observation_type: str
    """bias, dark, flat, science, ... in lower case."""
    exposure_time: float
    dark_time: float
    begin: int
    end: int
    physical_filter: str = "unknown"
    target_name: str = ""
    science_program: str = ""
    observation_reason: str = ""
    group: str = ""
    detector_serial: str = ""
    temperature: float | None = None
    """CCD temperature in degree Celsius."""
    binning: tuple[int, int] = (1, 1)
    """Serial and parallel binning."""

    @property
    def middle(self) -> int:
        """The middle of the exposure, TAI nanoseconds."""
        return (self.begin + self.end) // 2


class SimulatedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """How an instrument's own raw file looks, for the simulator.

    ``primary`` and ``segments`` are lists of (keyword, value, comment). ``dtype`` is the numpy type
    of the pixels as stored (``int32``, ``uint16``); ``segments`` has one entry per extension, empty
    where the pixels lie in the primary HDU.
    """

    file_name: str
    primary: list[tuple[str, HeaderValue, str]]
    segments: dict[str, list[tuple[str, HeaderValue, str]]] = {}
    dtype: str = "int32"
    compressed: bool = False


class Instrument:
    """Base class of a camera's plugin.

    Attributes
    ----------
    name
        What users type: ``LATISS``.
    camera_file, defaults_file
        TOML files beside the module of the subclass; defaults may be empty.
    filters
        Physical filters by name; empty when any name is allowed.
    default_filter
        The physical filter of frames that nobody chose one for; by default the first of
        ``filters``, or ``empty``.
    """

    name: str = ""
    summary: str = ""
    camera_file: str = "camera.toml"
    defaults_file: str = ""
    filters: tuple[str, ...] = ()
    default_filter: str = ""

    def folder(self) -> Path:
        """Return the folder of the subclass's module, where its TOML files lie."""
        return Path(inspect.getfile(type(self))).resolve().parent

    @cached_property
    def camera(self) -> Camera:
        """The camera, read once from ``camera_file``."""
        return load_camera(self.folder() / self.camera_file)

    def claims(self, header: Header) -> bool:
        """Tell whether a primary header was written by this instrument."""
        raise NotImplementedError

    def translate(self, header: Header) -> ExposureInfo:
        """Read the facts of an exposure from its primary header.

        Raises
        ------
        DataError
            When a card that cannot be done without is missing or senseless.
        """
        raise NotImplementedError

    def detectors(self, header: Header) -> tuple[int, ...]:
        """Return the ids of the detectors whose pixels the file holds; default: all."""
        return tuple(detector.id for detector in self.camera)

    def header_of(self, path: Path, headers: list[Header]) -> Header:
        """Merge the headers of a file's HDUs into the one to translate; default: the first."""
        return headers[0]

    def simulated_frame(self, info: ExposureInfo, detector: int) -> SimulatedFrame:
        """Say how the camera's own raw file of this exposure looks; the default is a plain file.

        The default is one file per detector with one image extension per ``hdu`` of the camera
        file (or pixels in the primary HDU, where ``hdu`` is 0) and the cards that :meth:`translate`
        of a simple instrument needs; cameras override it so that simulated frames cannot be told
        from real ones. Times are TAI. ``segments`` is keyed by extension name, or by extension
        number as text.
        """
        one = self.camera.detector(detector)
        hdus = dict.fromkeys(amplifier.hdu for amplifier in one.amplifiers)
        several = f"-det{one.id}" if len(self.camera.detectors) > 1 else ""
        return SimulatedFrame(
            file_name=f"{self.name}_{info.day_obs}_{info.seq_num:06d}{several}.fits",
            primary=self._plain_cards(info, one),
            segments={
                str(hdu): [("BUNIT", "adu", "unit of the pixels")] for hdu in hdus if hdu != 0
            },
        )

    def _plain_cards(
        self, info: ExposureInfo, detector: Detector
    ) -> list[tuple[str, HeaderValue, str]]:
        return [
            ("INSTRUME", self.name, "camera"),
            ("DETECTOR", detector.id, "detector number"),
            ("DETNAME", detector.name, "detector name"),
            ("DETSER", info.detector_serial or detector.serial, "detector serial number"),
            ("OBSID", info.obs_id, "observation"),
            ("DAYOBS", info.day_obs, "observing day"),
            ("SEQNUM", info.seq_num, "number within the day"),
            ("IMGTYPE", info.observation_type.upper(), "kind of exposure"),
            ("OBJECT", info.target_name, "target"),
            ("PROGRAM", info.science_program, "observing program"),
            ("REASON", info.observation_reason, "reason of the observation"),
            ("GROUPID", info.group, "group of exposures"),
            ("EXPTIME", info.exposure_time, "[s] shutter open"),
            ("DARKTIME", info.dark_time, "[s] between clear and read-out"),
            ("TIMESYS", "TAI", "time scale of the dates"),
            ("DATE-OBS", format_time(info.begin), "begin of the exposure"),
            ("DATE-END", format_time(info.end), "end of the exposure"),
            ("FILTER", info.physical_filter, "physical filter"),
            ("CCDTEMP", info.temperature, "[deg C] detector temperature"),
            ("XBIN", info.binning[0], "serial binning"),
            ("YBIN", info.binning[1], "parallel binning"),
        ]
