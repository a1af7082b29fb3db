"""The text timeline: ranges, gaps, and ends that stay open."""

from __future__ import annotations

from cpplug.api.times import parse_time
from cpplug.cli.timeline import draw
from cpplug.store.records import DataId, ValidityRow


def row(begin: str | None, end: str | None, detector: int = 0, of: str = "simcam") -> ValidityRow:
    return ValidityRow(
        collection="c",
        dataset_type="bias",
        data_id=DataId(of, detector),
        dataset="d",
        run="r",
        sha256="s",
        begin=parse_time(begin) if begin else None,
        end=parse_time(end) if end else None,
    )


def test_a_gap_is_drawn_and_named() -> None:
    text = draw([row("2021-01-01", "2021-01-11"), row("2021-01-21", "2021-01-31")], width=30)
    line = text.splitlines()[0]
    assert line == f"bias 0  |{'=' * 9}{' ' * 9}|{'=' * 10} "
    assert "gap: bias 0 has nothing in [2021-01-11T00:00:00, 2021-01-21T00:00:00) TAI" in text


def test_touching_ranges_leave_no_gap() -> None:
    text = draw([row("2021-01-01", "2021-02-01"), row("2021-02-01", "2021-03-01")])
    assert text.splitlines()[0].count("|") == 2 and text.endswith("no gaps")


def test_open_ends_point_outwards() -> None:
    text = draw([row(None, "2021-02-01", 0), row("2021-02-01", None, 1)])
    first, second, axis, gaps = text.splitlines()
    assert first.startswith("bias 0 <=") and second.endswith("=>")
    assert axis.split()[0] == "2021-02-01T00:00:00" and gaps == "no gaps"


def test_one_moment_only_can_be_drawn() -> None:
    text = draw([row(None, None)])
    assert "<" in text and ">" in text


def test_what_a_longer_range_covers_is_no_gap() -> None:
    short = [row("2021-01-10", "2021-01-12"), row("2021-01-20", "2021-01-22")]
    assert draw([row(None, None), *short]).endswith("no gaps")
    assert draw([row("2021-01-01", "2021-02-01"), *short]).endswith("no gaps")
    text = draw([row("2021-01-01", "2021-01-15"), *short])
    assert text.count("gap:") == 1
    assert "[2021-01-15T00:00:00, 2021-01-20T00:00:00)" in text


def test_cameras_are_kept_apart() -> None:
    text = draw([row("2021-01-01", "2021-02-01"), row("2021-01-01", "2021-02-01", of="LATISS")])
    assert [line.split(" |")[0].split() for line in text.splitlines()[:2]] == [
        ["simcam", "bias", "0"], ["LATISS", "bias", "0"]
    ]  # fmt: skip
