"""Measure what noise should not have: bands, lines, steps, corners, and amplifiers in step.

All numbers are measured in read-out order, because that is the order in which the electronics
wanders: rows follow each other in time, and the pixels of two amplifiers at the same place were
read at the same moment, whichever way their images lie on the detector. Electrons throughout.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from cpplug.api import Residual, mad_sigma
from cpplug_verify.statistics import AmpView, Numbers, Reals, amp_view

CORNER = 200
"""Side of the corner box, pixels; smaller amplifiers use half their side."""
BLOCK_ROWS = 250
WINDOW = 30
"""Rows averaged on either side of a step; small amplifiers use a tenth of their rows."""
MIN_WINDOW = 5
STEP_SIGMA = 5.0
STEP_OVER_LINE = 16.0
"""How much better (chi-squared) two levels must describe the rows than a straight line."""


def corner(view: AmpView) -> Numbers:
    """Return the mean of the read-out corner minus that of the amplifier, and the box's size."""
    rows = min(CORNER, view.image.shape[0] // 2)
    columns = min(CORNER, view.image.shape[1] // 2)
    box = view.image[:rows, :columns][view.kept[:rows, :columns]]
    mean = float(box.mean(dtype=np.float64)) if box.size else math.nan
    return {
        "corner": (mean - view.mean) * view.gain,
        "corner_pixels": box.size,
        "corner_rows": rows,
        "corner_columns": columns,
    }


def profile(view: AmpView, axis: int) -> tuple[Reals, Reals]:
    """Return the mean of every row (axis 1) or column (axis 0), and its number of pixels.

    Electron; NaN where less than half of the pixels are usable.
    """
    n = np.count_nonzero(view.kept, axis=axis).astype(np.float64)
    total = np.where(view.kept, view.image, 0).sum(axis=axis, dtype=np.float64)
    usable = n >= 0.5 * view.image.shape[axis]
    means = np.where(usable, total / np.maximum(n, 1), np.nan) * view.gain
    return means, n


def band(means: Reals, pixels: Reals, prefix: str) -> Numbers:
    """Return the scatter of a profile and what it rests on."""
    use = np.isfinite(means)
    if np.count_nonzero(use) < 3:
        return {}
    return {
        f"{prefix}_rms": float(np.std(means[use], ddof=1)),
        f"{prefix}_used": int(np.count_nonzero(use)),
        f"{prefix}_pixels": float(1 / np.mean(1 / pixels[use])),
    }


def line(means: Reals, prefix: str) -> Numbers:
    """Return amplitude, period and chance of the strongest wave in a profile.

    The power of white noise at one frequency is exponentially distributed; with the median power
    ln 2 times the mean, a peak of r medians among m frequencies has the chance
    1 - (1 - exp(-r ln 2))^m. Gaps are filled with the mean.
    """
    use = np.isfinite(means)
    if np.count_nonzero(use) < 16:
        return {}
    wave = np.where(use, means, 0.0)
    wave = np.where(use, wave - wave[use].mean(), 0.0)
    power = np.abs(np.fft.rfft(wave)[1 : (means.size + 1) // 2]) ** 2
    typical = float(np.median(power))
    peak = int(np.argmax(power))
    strength = float(power[peak]) / typical * math.log(2) if typical > 0 else 0.0
    log_chance = min(math.log10(power.size) - strength / math.log(10), 0.0)
    return {
        f"{prefix}_amplitude": 2 * math.sqrt(float(power[peak])) / np.count_nonzero(use),
        f"{prefix}_noise": 2 * math.sqrt(typical / math.log(2)) / np.count_nonzero(use),
        f"{prefix}_period": means.size / (peak + 1),
        f"{prefix}_log_chance": log_chance,
    }


def bands_and_lines(residual: Residual) -> dict[str, Numbers]:
    """Measure row and column profiles of every amplifier."""
    key = "cpplug_verify.structure"
    if key not in residual.cache:
        found: dict[str, Numbers] = {}
        for amplifier in residual.detector.amplifiers:
            view = amp_view(residual, amplifier)
            numbers = corner(view)
            for prefix, axis in (("rows", 1), ("columns", 0)):
                means, pixels = profile(view, axis)
                numbers |= band(means, pixels, prefix) | line(means, prefix)
            found[amplifier.name] = numbers
        residual.cache[key] = found
    measured: dict[str, Numbers] = residual.cache[key]
    return measured


def steps(levels: Reals, gain: float, min_step: float) -> Numbers:
    """Count sudden changes of the overscan level.

    The means of the rows before and after each row are compared; a step exceeds 5 standard errors
    and ``min_step`` (electron), is the largest within a window, and describes the rows around it
    better than a straight line does, so that a drift is no step. The standard error is that of the
    noise of rows (from differences of neighbours) or what the level's own wander makes of it,
    whichever is larger. The first window is left out: there the electronics settle.
    """
    window = min(WINDOW, levels.size // 10)
    if window < MIN_WINDOW or not np.isfinite(levels).all():
        return {}
    levels = levels[window:]
    row_noise = mad_sigma(np.diff(levels)) / math.sqrt(2)
    sums = np.concatenate([[0.0], np.cumsum(levels - levels[0])])
    means = (sums[window:] - sums[:-window]) / window
    jumps = means[window:] - means[:-window]
    error = max(row_noise * math.sqrt(2 / window), mad_sigma(jumps))
    limit = max(STEP_SIGMA * error, min_step / gain)
    count, largest = 0, 0.0
    for start in range(0, jumps.size, window):
        here = start + int(np.argmax(np.abs(jumps[start : start + window])))
        near = jumps[max(here - window + 1, 0) : here + window]
        jump = float(jumps[here])
        if abs(jump) <= limit or abs(jump) < np.abs(near).max():
            continue
        gained = _line_minus_step(levels[here : here + 2 * window])
        if gained > STEP_OVER_LINE * row_noise**2:
            count += 1
            largest = max(largest, abs(jump) * gain)
    return {"shifts": count, "shift_largest": largest}


def _line_minus_step(values: Reals) -> float:
    """Return by how much a straight line leaves larger squares than a step in the middle."""
    x = np.arange(values.size) - (values.size - 1) / 2
    centred = values - values.mean()
    line_part = float(x @ centred) ** 2 / float(x @ x)
    half = values.size // 2
    step_part = values.size / 4 * (values[half:].mean() - values[:half].mean()) ** 2
    return float(step_part) - line_part


def correlations(residual: Residual) -> dict[str, Numbers]:
    """Return Pearson's r between the pixels of every two amplifiers of the same size.

    Amplifier to ``r:<other>``; pixels outside the clip count as zero. Worked through in blocks of
    rows to keep memory small.
    """
    views = [amp_view(residual, amplifier) for amplifier in residual.detector.amplifiers]
    found: dict[str, Numbers] = {view.amplifier.name: {} for view in views}
    for shape in {view.image.shape for view in views}:
        group = [view for view in views if view.image.shape == shape and view.n_kept > 1]
        if len(group) < 2:
            continue
        product = np.zeros((len(group), len(group)))
        for start in range(0, shape[0], BLOCK_ROWS):
            block = np.stack(
                [
                    np.where(
                        v.kept[part], v.image[part] - np.float32(v.mean), np.float32(0)
                    ).ravel()
                    for v in group
                    for part in [slice(start, start + BLOCK_ROWS)]
                ]
            )
            product += block @ block.T
        for i, k in combinations(range(len(group)), 2):
            scale = math.sqrt(product[i, i] * product[k, k])
            r = float(product[i, k]) / scale if scale else math.nan
            first, second = group[i].amplifier.name, group[k].amplifier.name
            found[first][f"r:{second}"] = found[second][f"r:{first}"] = r
    return found
