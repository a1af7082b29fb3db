"""The options of every simulated effect: a switch ``on``, and strengths with units."""

from __future__ import annotations

from typing import Annotated

from cpplug.api import Config, at_least, at_most, doc, fraction, not_negative, positive

On = Annotated[bool, doc("whether frames show this effect")]


class BiasLevel(Config, frozen=True):
    """A pedestal per amplifier."""

    on: On = True
    mean: Annotated[float | None, doc("mean level, ADU; none: 7 % of the ADC's range")] = None
    scatter: Annotated[float, fraction, doc("half width of the spread between amplifiers")] = 0.2


class BiasStructure(Config, frozen=True):
    """A fixed pattern in the data pixels: columns, pixels and a smooth shape."""

    on: On = True
    columns: Annotated[float, not_negative, doc("rms of column offsets, ADU")] = 1.0
    pixels: Annotated[float, not_negative, doc("rms of pixel offsets, ADU")] = 0.5
    shape: Annotated[float, not_negative, doc("peak of the smooth shape, ADU")] = 3.0
    offsets: Annotated[dict[str, float], doc("added to an amplifier's data pixels, ADU")] = {}


class RowTransient(Config, frozen=True):
    """The electronics settle at the start of every row; zero again where the data end."""

    on: On = True
    amplitude: Annotated[float, doc("at the first pixel, ADU")] = 8.0
    length: Annotated[float, positive, doc("decay length, pixels")] = 12.0


class RowDrift(Config, frozen=True):
    """The level of the rows wanders during read-out, in data and overscan alike."""

    on: On = True
    exposure: Annotated[float, not_negative, doc("rms of the level between exposures, ADU")] = 4.0
    rms: Annotated[float, not_negative, doc("rms of the wander within an exposure, ADU")] = 1.5
    length: Annotated[float, positive, doc("correlation length of the wander, rows")] = 150.0
    start: Annotated[float, doc("transient at the first row, ADU")] = 12.0
    start_length: Annotated[float, positive, doc("decay length of that transient, rows")] = 25.0


class ReadNoise(Config, frozen=True):
    """Gaussian noise of the output amplifiers, from the camera file."""

    on: On = True
    factors: Annotated[dict[str, float], doc("by amplifier: true over nominal noise")] = {}


class Gain(Config, frozen=True):
    """Electrons per ADU, from the camera file. Switched off: 1 electron/ADU."""

    on: On = True
    factors: Annotated[dict[str, float], doc("by amplifier: true over nominal gain")] = {}


class DarkCurrent(Config, frozen=True):
    """Thermal charge, with a glow in one corner."""

    on: On = True
    rate: Annotated[float, not_negative, doc("away from the glow, electron/s/pixel")] = 0.02
    glow: Annotated[float, not_negative, doc("peak of the glow, electron/s/pixel")] = 0.02


class HotPixels(Config, frozen=True):
    """Single pixels with a high dark current; rates are uniform in their logarithm."""

    on: On = True
    density: Annotated[float, not_negative, doc("hot pixels per million pixels")] = 60.0
    low: Annotated[float, positive, doc("lowest rate, electron/s")] = 5.0
    high: Annotated[float, positive, doc("highest rate, electron/s")] = 2000.0


class BadColumns(Config, frozen=True):
    """Columns that leak charge (bright) or see no light (dead) above their first bad row."""

    on: On = True
    density: Annotated[float, not_negative, doc("bad columns per thousand columns")] = 3.0
    bright: Annotated[float, not_negative, doc("rate of a bright column, electron/s/pixel")] = 30.0
    response: Annotated[float, fraction, doc("response of a dead column")] = 0.1


class QeGradient(Config, frozen=True):
    """Sensitivity that changes across the detector, differently for every filter."""

    on: On = True
    amplitude: Annotated[float, fraction, doc("peak to peak, fraction")] = 0.04


class Prnu(Config, frozen=True):
    """Pixel response non-uniformity."""

    on: On = True
    rms: Annotated[float, fraction, doc("fraction")] = 0.006


class Donuts(Config, frozen=True):
    """Shadows of dust, out of focus; they can move between exposures."""

    on: On = True
    density: Annotated[float, not_negative, doc("donuts per million pixels")] = 1.5
    radius: Annotated[float, positive, doc("typical outer radius, pixels")] = 30.0
    depth: Annotated[float, fraction, doc("typical depth, fraction")] = 0.03
    shift_x: Annotated[float, doc("all donuts moved along x, pixels")] = 0.0
    shift_y: Annotated[float, doc("all donuts moved along y, pixels")] = 0.0
    jitter: Annotated[float, not_negative, doc("random move per exposure, rms, pixels")] = 0.0


class Vignetting(Config, frozen=True):
    """Light lost towards the corners, as the fourth power of the distance from the centre."""

    on: On = True
    corner: Annotated[float, fraction, doc("loss at the corners, fraction")] = 0.05


class Lamp(Config, frozen=True):
    """The flat field lamp."""

    on: On = False
    rate: Annotated[float, not_negative, doc("electron/s/pixel")] = 25_000.0
    scatter: Annotated[float, not_negative, doc("rms between exposures, fraction")] = 0.001


class Sky(Config, frozen=True):
    """Sky light with a gradient in a direction that changes from exposure to exposure."""

    on: On = False
    rate: Annotated[float, not_negative, doc("electron/s/pixel")] = 8.0
    gradient: Annotated[float, fraction, doc("peak to peak across the detector")] = 0.03


class Fringes(Config, frozen=True):
    """Interference of night sky lines in the silicon; several modes, each with its own strength."""

    on: On = False
    modes: Annotated[int, at_least(1), doc("number of modes")] = 3
    amplitude: Annotated[float, fraction, doc("rms of the strongest mode, fraction of sky")] = 0.01
    scatter: Annotated[float, not_negative, doc("rms of a mode between exposures, fraction")] = 0.3
    period: Annotated[float, positive, doc("typical distance of the fringes, pixels")] = 60.0


class Stars(Config, frozen=True):
    """Stars with a Gaussian profile and numbers that fall as one over the flux."""

    on: On = False
    density: Annotated[float, not_negative, doc("stars per million pixels")] = 100.0
    low: Annotated[float, positive, doc("faintest, electron/s")] = 100.0
    high: Annotated[float, positive, doc("brightest, electron/s")] = 200_000.0
    fwhm: Annotated[float, positive, doc("full width at half maximum, pixels")] = 9.0


class CosmicRays(Config, frozen=True):
    """Muons, which leave straight tracks, and compact hits."""

    on: On = False
    rate: Annotated[float, not_negative, doc("hits per cm2 and second")] = 0.03
    compact: Annotated[float, fraction, doc("fraction of compact hits")] = 0.3
    readout: Annotated[float, not_negative, doc("read-out time, s; hits count for half of it")] = (
        2.0
    )
    thickness: Annotated[float, positive, doc("silicon thickness, micrometre")] = 100.0


class PhotonNoise(Config, frozen=True):
    """Poisson noise of the light. Switched off: exactly the mean, and no charge correlations."""

    on: On = True


class BrighterFatter(Config, frozen=True):
    """Collected charge pushes the next charge away: variance and covariances of the PTC."""

    on: On = True
    a00: Annotated[float, at_most(0), doc("area change per electron, 1/electron")] = -2.4e-6
    reach: Annotated[int, at_least(1), doc("farthest pixel that feels the charge, pixels")] = 4
    decay: Annotated[float, positive, doc("power with which the change falls")] = 2.7
    anisotropy: Annotated[float, positive, doc("parallel over serial neighbour")] = 2.0
    step: Annotated[float, positive, doc("charge per integration step, electron")] = 10_000.0


class Saturation(Config, frozen=True):
    """Full wells, and charge that bleeds along the columns."""

    on: On = True
    full_well: Annotated[
        float | None, doc("electron; none: the camera file's saturation level, else 150 000")
    ] = None
    bleed: Annotated[bool, doc("excess charge runs along the column; otherwise it is lost")] = True


class Cti(Config, frozen=True):
    """Charge left behind in the serial register and in the output, seen in the overscan."""

    on: On = True
    cti: Annotated[float, fraction, doc("charge left behind per transfer, fraction")] = 1e-6
    drift_scale: Annotated[float, fraction, doc("output offset per signal, fraction")] = 1e-4
    decay_time: Annotated[float, positive, doc("decay of that offset, pixels")] = 2.4
    trap_size: Annotated[float, not_negative, doc("charge a serial trap holds, electron")] = 0.0
    trap_scaling: Annotated[float, fraction, doc("captured part of the signal, fraction")] = 0.08
    trap_time: Annotated[float, positive, doc("emission time of the trap, pixels")] = 0.4


class Nonlinearity(Config, frozen=True):
    """ADU out = x + c2 x^2 + c3 x^3, with x the linear ADU above bias."""

    on: On = True
    c2: Annotated[float, doc("1/ADU")] = -1e-7
    c3: Annotated[float, doc("1/ADU^2")] = 1e-13
    scatter: Annotated[float, not_negative, doc("rms between amplifiers, fraction")] = 0.2


class Crosstalk(Config, frozen=True):
    """A ghost of every amplifier in the others, at the same place of the read-out."""

    on: On = True
    nearest: Annotated[float, doc("ghost in the next amplifier, ADU/ADU")] = 2e-4
    decay: Annotated[float, at_least(1), doc("factor lost per further amplifier")] = 4.0
    scatter: Annotated[float, not_negative, doc("rms between pairs, fraction")] = 0.3


class Adc(Config, frozen=True):
    """Rounds to integers and clips at the ends of the range. Switched off: no upper clip."""

    on: On = True
    maximum: Annotated[
        int | None, doc("largest number; none: what the pixel type holds, 18 bit for int32")
    ] = None
