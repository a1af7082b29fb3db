"""simcam: a small camera that exists only in here, to try things without a telescope.

One detector of 64 x 64 pixels with two amplifiers, one file per exposure. Its raw files are those
that ``cpplug simulate`` writes for a camera without a look of its own, so that this module is also
the shortest example of an instrument: a camera file and a translator.
"""

from __future__ import annotations

from collections.abc import Iterator

from cpplug.api import DataError, ExposureInfo, Header, Instrument, UsageError, hookimpl
from cpplug.api.times import parse_time


class SimCam(Instrument):
    """A two-amplifier synthetic camera."""

    name = "simcam"
    summary = "A two-amplifier synthetic camera of 64 x 64 pixels"
    filters = ("empty", "g", "r", "y")

    def claims(self, header: Header) -> bool:
        """Tell whether a primary header was written by simcam."""
        return header.get("INSTRUME") == self.name

    def translate(self, header: Header) -> ExposureInfo:
        """Read the facts of an exposure from its primary header.

        Raises
        ------
        DataError
            When a card is missing or senseless.
        """
        try:
            return self._translate(header)
        except KeyError as error:
            raise DataError(
                f"The header of a simcam frame lacks the card {error}.",
                "Simulate the frame again, or leave it out.",
            ) from None
        except (TypeError, ValueError, UsageError) as error:
            raise DataError(
                f"The header of a simcam frame makes no sense: {error}",
                "Simulate the frame again, or leave it out.",
            ) from None

    def _translate(self, header: Header) -> ExposureInfo:
        day_obs, seq_num = int(str(header["DAYOBS"])), int(str(header["SEQNUM"]))
        temperature = header.get("CCDTEMP")
        return ExposureInfo(
            instrument=self.name,
            exposure=day_obs * 100_000 + seq_num,
            obs_id=str(header["OBSID"]),
            day_obs=day_obs,
            seq_num=seq_num,
            observation_type=str(header["IMGTYPE"]).lower(),
            exposure_time=float(str(header["EXPTIME"])),
            dark_time=float(str(header["DARKTIME"])),
            begin=parse_time(str(header["DATE-OBS"])),
            end=parse_time(str(header["DATE-END"])),
            physical_filter=str(header.get("FILTER") or "unknown"),
            target_name=str(header.get("OBJECT") or ""),
            science_program=str(header.get("PROGRAM") or ""),
            observation_reason=str(header.get("REASON") or ""),
            group=str(header.get("GROUPID") or ""),
            detector_serial=str(header.get("DETSER") or ""),
            temperature=None if temperature is None else float(str(temperature)),
            binning=(int(str(header.get("XBIN") or 1)), int(str(header.get("YBIN") or 1))),
        )


@hookimpl
def cpplug_instruments() -> Iterator[Instrument]:
    """Offer simcam."""
    yield SimCam()
