"""Draws validity ranges as text: one line per type, detector and filter, gaps left empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 60


def draw(rows: Sequence[Any], width: int = WIDTH) -> str:
    """Return a timeline of validity ranges.

    Parameters
    ----------
    rows
        ``ValidityRow`` records.
    width
        Characters between the ends of the axis.

    Returns
    -------
    str
        A line per data id: ``=`` where something is valid, ``|`` where a range begins, blanks in
        gaps, ``<`` and ``>`` where validity goes on beyond the axis; gaps are listed below.
    """
    from cpplug.api.times import NS_PER_DAY, format_time, now_tai

    bounds = [t for row in rows for t in (row.begin, row.end) if t is not None]
    if any(row.end is None for row in rows):
        bounds.append(max([now_tai(), *(t + NS_PER_DAY for t in bounds)]))
    low, high = min(bounds), max(bounds)
    low = low - NS_PER_DAY if low == high else low
    span = max(high - low, 1)
    lines: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        data_id = row.data_id
        key = (data_id.instrument, row.dataset_type, data_id.detector, data_id.physical_filter)
        lines.setdefault(key, []).append(row)
    skip = 1 if len({key[0] for key in lines}) == 1 else 0
    labels = {key: " ".join(str(part) for part in key[skip:] if part != "") for key in lines}
    margin = max(len(label) for label in labels.values())
    text, gaps = [], []
    for key, ranges in lines.items():
        cells = [" "] * width
        ends = [" ", " "]
        ranges = sorted(ranges, key=lambda r: -1 if r.begin is None else r.begin)
        for row in ranges:
            first = 0 if row.begin is None else (row.begin - low) * (width - 1) // span
            last = width if row.end is None else max(first + 1, (row.end - low) * width // span)
            cells[first:last] = "=" * (min(last, width) - first)
            if row.begin is not None:
                cells[first] = "|"
            ends[0] = "<" if row.begin is None else ends[0]
            ends[1] = ">" if row.end is None else ends[1]
        gaps += [
            f"gap: {labels[key]} has nothing in [{format_time(a)}, {format_time(b)}) TAI"
            for a, b in _gaps(ranges)
        ]
        text.append(f"{labels[key]:{margin}} {ends[0]}{''.join(cells)}{ends[1]}")
    axis = f"{'':{margin}}  {format_time(low)}"
    axis += format_time(high).rjust(max(margin + 2 + width - len(axis), 1))
    return "\n".join([*text, axis, *(gaps or ["no gaps"])])


def _gaps(ranges: Sequence[Any]) -> list[tuple[int, int]]:
    """Return what lies between the ranges, which begin one after the other and may overlap."""
    found: list[tuple[int, int]] = []
    reached = ranges[0].end
    for row in ranges[1:]:
        if reached is None:
            break
        if row.begin is not None and row.begin > reached:
            found.append((reached, row.begin))
        reached = None if row.end is None else max(reached, row.end)
    return found
