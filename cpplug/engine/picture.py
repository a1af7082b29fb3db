"""A picture of an image product: the image, its mask, its noise, and profiles along both axes.

Made for a person who has a minute: the stretch is the median and three robust standard deviations
to either side, the amplifiers are outlined and named, masked pixels are red, and the numbers that
matter stand beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cpplug.api.camera import Detector
from cpplug.api.product import ImageProduct
from cpplug.engine.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PIXELS = 1000


def draw_product(path: Path, product: ImageProduct, detector: Detector, title: str) -> None:
    """Draw an image product as PNG.

    Parameters
    ----------
    path
        The file to write; whole or not at all.
    product
        What to draw.
    detector
        Its geometry, for the outlines of the amplifiers.
    title
        Heading, such as the run and the number of inputs.

    Raises
    ------
    RepositoryError
        When the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(4, 1, 1.6), height_ratios=(4, 1))
    axes = figure.add_subplot(grid[0, 0])
    good = product.mask == 0
    low, high = _stretch(product.image[good])
    picture = axes.imshow(
        _shrink(np.where(good, product.image, np.nan)),
        origin="lower",
        cmap=_map(),
        vmin=low,
        vmax=high,
        extent=(0, detector.width, 0, detector.height),
        interpolation="nearest",
        aspect="auto",
    )
    for amplifier in detector.amplifiers:
        _outline(axes, amplifier)
    axes.set_title(title, fontsize=10, loc="left")
    bar = figure.colorbar(picture, ax=axes, location="left", shrink=0.8)
    bar.set_label(f"value [{product.unit}]")
    _profiles(figure, grid, product, good)
    _table(figure.add_subplot(grid[:, 2]), product, detector, good)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def _map() -> Any:
    import matplotlib as mpl

    return mpl.colormaps["gray"].with_extremes(bad="red")


def _stretch(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return median minus and plus three robust standard deviations."""
    if not values.size:
        return 0.0, 1.0
    sample = values[:: max(1, values.size // 200_000)]
    quartiles = np.percentile(sample, [25, 50, 75])
    half = 3 * 0.7413 * float(quartiles[2] - quartiles[0]) or 1.0
    return float(quartiles[1]) - half, float(quartiles[1]) + half


def _shrink(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average blocks so that the picture has at most ``MAX_PIXELS`` a side; masked stay visible."""
    step = max(1, -(-max(image.shape) // MAX_PIXELS))
    if step == 1:
        return image
    rows, columns = (n // step * step for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _outline(axes: Axes, amplifier: Any) -> None:
    box = amplifier.bbox
    xs = [box.x, box.x + box.width, box.x + box.width, box.x, box.x]
    ys = [box.y, box.y, box.y + box.height, box.y + box.height, box.y]
    axes.plot(xs, ys, color="tab:cyan", linewidth=0.6)
    axes.text(
        box.x + box.width / 2, box.y + box.height / 2, amplifier.name, color="tab:cyan",
        ha="center", va="center", fontsize=8,
    )  # fmt: skip


def _profiles(figure: Any, grid: Any, product: ImageProduct, good: npt.NDArray[np.bool_]) -> None:
    image = np.where(good, product.image, np.nan)
    columns, rows = _mean(image, 0), _mean(image, 1)
    below = figure.add_subplot(grid[1, 0])
    below.plot(columns, color="k", linewidth=0.5)
    below.set_xlabel("column [pixel]")
    below.set_ylabel(f"mean [{product.unit}]")
    beside = figure.add_subplot(grid[0, 1])
    beside.plot(rows, np.arange(rows.size), color="k", linewidth=0.5)
    beside.set_ylabel("row [pixel]")
    beside.set_xlabel(f"mean [{product.unit}]")


def _mean(image: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float64]:
    count = np.isfinite(image).sum(axis=axis)
    total = np.nansum(image, axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _table(
    axes: Axes, product: ImageProduct, detector: Detector, good: npt.NDArray[np.bool_]
) -> None:
    axes.axis("off")
    lines = [f"{'amp':6}{'median':>9}{'sigma':>8}{'noise':>8}{'bad':>7}"]
    for amplifier in detector.amplifiers:
        part = amplifier.bbox.slices
        use = good[part]
        values = product.image[part][use]
        low, middle, high = np.percentile(values, [25, 50, 75]) if values.size else (np.nan,) * 3
        noise = np.sqrt(np.median(product.variance[part][use])) if values.size else np.nan
        lines.append(
            f"{amplifier.name:6}{middle:9.3f}{0.7413 * (high - low):8.3f}{noise:8.3f}"
            f"{int(np.count_nonzero(~use)):7d}"
        )
    lines.append("")
    lines.append(f"unit: {product.unit}; sigma: robust scatter of pixels;")
    lines.append("noise: median of sqrt(variance);")
    lines.append("bad: masked pixels (red in the image)")
    axes.text(0, 1, "\n".join(lines), family="monospace", fontsize=7, va="top")
