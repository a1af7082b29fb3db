"""LATISS, the imager and slitless spectrograph of Rubin Observatory's auxiliary telescope.

One ITL CCD of 4072 x 4000 pixels read by sixteen amplifiers. ``LATISS-mini`` is the same camera
with small segments: frames of 480 x 144 pixels with the same names, gains, read noises and headers,
for tests and tutorials.
"""

from __future__ import annotations

from collections.abc import Iterator

from cpplug.api import ExposureInfo, Header, Instrument, SimulatedFrame, hookimpl
from cpplug_latiss.headers import simulated_frame
from cpplug_latiss.translator import translate

CPPLUG_API = 1
_NAMES = {"LATISS", "LSST_ATISS"}


class Latiss(Instrument):
    """The camera at full size."""

    name = "LATISS"
    summary = "Rubin auxiliary telescope: one ITL CCD, sixteen amplifiers"
    defaults_file = "defaults.toml"
    default_filter = "empty~empty"

    def _size(self) -> str:
        detector = self.camera.detector(0)
        return f"[1:{detector.width},1:{detector.height}]"

    def claims(self, header: Header) -> bool:
        """Tell whether LATISS wrote this header: by INSTRUME, or by DETNAME in early files."""
        named = header.get("INSTRUME") in _NAMES or header.get("DETNAME") == "RXX_S00"
        return named and header.get("DETSIZE") in (None, self._size())

    def translate(self, header: Header) -> ExposureInfo:
        """Read the facts of an exposure; see :mod:`cpplug_latiss.translator`."""
        return translate(header, self.name)

    def simulated_frame(self, info: ExposureInfo, detector: int) -> SimulatedFrame:
        """Say how the camera's own file of this exposure looks, which depends on its date."""
        return simulated_frame(info, self.camera.detector(detector), small=False)


class LatissMini(Latiss):
    """The camera with small segments; its files say so in DETSIZE."""

    name = "LATISS-mini"
    summary = "LATISS with small segments, for tests and tutorials"
    camera_file = "camera_mini.toml"

    def claims(self, header: Header) -> bool:
        """Tell whether this is a header of the small camera."""
        return header.get("INSTRUME") in _NAMES and header.get("DETSIZE") == self._size()

    def simulated_frame(self, info: ExposureInfo, detector: int) -> SimulatedFrame:
        """As for LATISS, plus the card that tells the two apart."""
        return simulated_frame(info, self.camera.detector(detector), small=True)


@hookimpl
def cpplug_instruments() -> Iterator[Instrument]:
    """Offer both cameras."""
    yield Latiss()
    yield LatissMini()
