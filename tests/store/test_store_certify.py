"""Certification: ranges, conflicts, replacing, splitting, and the journal."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cpplug.api.errors import (
    CertificationConflict,
    CertificationRefused,
    NothingMatched,
    UnknownNameError,
    UsageError,
)
from cpplug.api.times import parse_time
from cpplug.store.ranges import Cut, StoredRange
from cpplug.store.records import DataId

WHO = {"who": "tester", "command": "cpplug certify run1 calib bias"}


@pytest.fixture
def two(repo, facts):
    """Two runs with biases of detectors 0 and 1."""
    repo.records = {name: facts.build(repo, name) for name in ("run1", "run2")}
    return repo


def decertify(repo, facts, begin, end, **options):
    limits = [None if day is None else facts.T0 + day * facts.DAY for day in (begin, end)]
    return repo.decertify("calib", "bias", *limits, who="me", command="c", **options)


def test_certify_makes_the_collection(two, facts):
    result = facts.certify(two, "run1", "calib", 0, 5, reason="first")
    assert [row.id for row in result.certified] == [r.id for r in two.records["run1"]]
    assert (result.begin, result.end) == (facts.T0, facts.T0 + 5 * facts.DAY)
    assert {change.action for change in result.changes} == {"added"}
    assert two.collection("calib").kind == "CALIBRATION"
    rows = two.validity(["calib"])
    assert [(row.data_id.detector, row.run) for row in rows] == [(0, "run1"), (1, "run1")]
    assert rows[0].sha256 == two.records["run1"][0].sha256


def test_seed_dates(two):
    begin, end = parse_time("2020-01-01"), parse_time("2050-01-01")
    two.certify("run1", "u/czw/DM-28920/calib/bias.20210720", "bias", begin, end, **WHO)
    (row, _) = two.validity(["u/czw/DM-28920/calib/bias.20210720"])
    assert (row.begin, row.end) == (begin, end)


def test_touching_ranges_are_fine(two, facts):
    facts.certify(two, "run1", "calib", 0, 5)
    facts.certify(two, "run2", "calib", 5, 9)
    facts.certify(two, "run2", "calib", -3, 0)
    facts.certify(two, "run1", "calib", 20, 30)
    assert facts.ranges(two, "calib") == [(-3, 0), (0, 5), (5, 9), (20, 30)]


@pytest.mark.parametrize(
    ("begin", "end"),
    [(0, 5), (0, 6), (-1, 1), (4, 9), (1, 2), (-5, 50), (None, 1), (4, None), (None, None)],
)
@pytest.mark.parametrize("run", ["run1", "run2"])
def test_any_overlap_is_refused_and_nothing_changes(two, facts, run, begin, end):
    facts.certify(two, "run1", "calib", 0, 5)
    before = two.validity(["calib"])
    if (run, begin, end) == ("run1", 0, 5):
        result = facts.certify(two, run, "calib", begin, end)
        assert (len(result.unchanged), result.certified, result.changes) == (2, (), ())
        assert len(two.journal()) == 1
    else:
        with pytest.raises(CertificationConflict):
            facts.certify(two, run, "calib", begin, end)
    assert two.validity(["calib"]) == before


def test_open_ranges_overlap_everything(two, facts):
    facts.certify(two, "run1", "calib", None, None)
    for limits in ((0, 1), (None, -500), (80_000, None)):
        with pytest.raises(CertificationConflict):
            facts.certify(two, "run2", "calib", *limits)
    assert facts.ranges(two, "calib") == [(None, None)]


def test_the_whole_call_is_one_transaction(two, facts):
    facts.build(two, "single", detectors=(1,))
    facts.certify(two, "single", "calib", 2, 3)
    with pytest.raises(CertificationConflict):
        facts.certify(two, "run1", "calib", 0, 5)  # detector 0 alone would be fine
    assert facts.ranges(two, "calib", 0) == []
    assert len(two.journal()) == 1


def test_conflicts_are_named_and_resolved(two, facts):
    facts.certify(two, "run1", "calib", 0, 5)
    with pytest.raises(CertificationConflict) as caught:
        facts.certify(two, "run2", "calib", 3, 9)
    error = caught.value
    assert error.exit_code == 6
    for word in (two.records["run1"][0].id, two.records["run2"][0].id, "Mosaic detector 0", "calib",
                 "[2021-01-23T00:00:00, 2021-01-29T00:00:00) TAI", "1 more ranges",
                 "[2021-01-20T00:00:00, 2021-01-25T00:00:00) TAI"):  # fmt: skip
        assert word in error.message
    command = (
        "cpplug certify run2 calib bias --begin-date 2021-01-23T00:00:00 "
        "--end-date 2021-01-29T00:00:00 --truncate"
    )
    assert command in error.next_step
    assert "--replace" in error.next_step


def test_dates_that_cannot_be_stored_are_refused_not_clamped(two, facts):
    for limits in ((0, 200_000), (-200_000, 0)):
        with pytest.raises(UsageError, match="lies outside the years 1678 to 2261"):
            facts.certify(two, "run1", "calib", *limits)


@pytest.mark.parametrize("limits", [(5, 5), (5, 4)])
def test_begin_lies_before_end(two, facts, limits):
    with pytest.raises(UsageError, match="is not before the end"):
        facts.certify(two, "run1", "calib", *limits)
    with pytest.raises(UsageError, match="is not before the end"):
        decertify(two, facts, *limits)
    assert two.collections("calib") == []


def test_filters_coexist(repo, facts):
    facts.build(repo, "flats.a", types=("flat",), detectors=(0,), filters=("RG610~empty",))
    facts.build(repo, "flats.b", types=("flat",), detectors=(0,), filters=("empty~empty",))
    facts.certify(repo, "flats.a", "calib", 0, 9, "flat")
    facts.certify(repo, "flats.b", "calib", 0, 9, "flat")
    assert len(repo.validity(["calib"])) == 2
    with pytest.raises(CertificationConflict, match="RG610~empty"):
        facts.build(repo, "flats.c", types=("flat",), detectors=(0,), filters=("RG610~empty",))
        facts.certify(repo, "flats.c", "calib", 8, 9, "flat")


def test_types_coexist(repo, facts):
    facts.build(repo, "both", types=("bias", "dark"))
    facts.certify(repo, "both", "calib", 0, 9, "bias")
    facts.certify(repo, "both", "calib", 0, 9, "dark")
    assert repo.collection("calib").counts == {"bias": 2, "dark": 2}


def test_replace(two, facts):
    facts.certify(two, "run1", "calib", 0, 10)
    result = facts.certify(two, "run2", "calib", 3, 5, replace=True)
    assert facts.ranges(two, "calib") == [(0, 3), (3, 5), (5, 10)]
    assert [c.action for c in result.changes] == ["split", "split", "added", "added"]
    facts.certify(two, "run2", "calib", None, 4, replace=True)
    assert facts.ranges(two, "calib") == [(None, 4), (4, 5), (5, 10)]
    runs = [row.run for row in two.validity(["calib"], detector=1)]
    assert runs == ["run2", "run2", "run1"]
    with pytest.raises(UsageError, match="Only one of"):
        facts.certify(two, "run2", "calib", 0, 1, replace=True, truncate=True)


def test_truncate(two, facts):
    facts.certify(two, "run1", "calib", 0, None)
    result = facts.certify(two, "run2", "calib", 5, None, truncate=True)
    assert facts.ranges(two, "calib") == [(0, 5), (5, None)]
    change = result.changes[0]
    assert (change.action, change.after) == (
        "shortened", ((facts.T0, facts.T0 + 5 * facts.DAY),)
    )  # fmt: skip
    facts.build(two, "run3")
    with pytest.raises(CertificationConflict) as caught:  # run2 does not begin earlier
        facts.certify(two, "run3", "calib", 4, 9, truncate=True)
    assert "--truncate" not in caught.value.next_step
    assert "--replace" in caught.value.next_step
    assert facts.ranges(two, "calib") == [(0, 5), (5, None)]


def test_dry_run_changes_nothing(two, facts):
    result = facts.certify(two, "run1", "calib", 0, 5, dry_run=True)
    assert len(result.changes) == 2
    assert two.collections("calib") == []
    facts.certify(two, "run1", "calib", 0, 5)
    result = facts.certify(two, "run2", "calib", 2, 9, replace=True, dry_run=True)
    assert [change.action for change in result.changes][:2] == ["shortened", "shortened"]
    with pytest.raises(CertificationConflict):
        facts.certify(two, "run2", "calib", 2, 9, dry_run=True)
    assert facts.ranges(two, "calib") == [(0, 5)]
    assert len(decertify(two, facts, 1, 2, dry_run=True)) == 2
    assert facts.ranges(two, "calib") == [(0, 5)]
    assert len(two.journal()) == 1


def test_chosen_datasets(two, facts):
    one = two.records["run1"][1]
    facts.certify(two, "run1", "calib", 0, 5, datasets=[one.id])
    assert [row.dataset for row in two.validity(["calib"])] == [one.id]
    with pytest.raises(UnknownNameError, match="holds no bias with id"):
        facts.certify(two, "run1", "calib", 5, 6, datasets=[two.records["run2"][0].id])


def test_chain_means_its_first_child(two, facts):
    facts.build(two, "darks", types=("dark",))
    two.chain("gen", ["run2", "run1"])
    facts.certify(two, "gen", "calib", 0, 5)
    assert {row.run for row in two.validity(["calib"])} == {"run2"}
    two.chain("gen", ["darks"], "prepend")
    with pytest.raises(NothingMatched) as caught:
        facts.certify(two, "gen", "other", 0, 5)
    assert "'darks' holds dark (2)" in caught.value.message
    assert "run2, run1" in caught.value.next_step
    assert caught.value.exit_code == 4
    assert two.collections("other") == []
    facts.certify(two, "gen", "other", 0, 5, search_all_inputs=True)
    assert {row.run for row in two.validity(["other"])} == {"run2"}
    two.chain("empty", [])
    with pytest.raises(NothingMatched, match="it is empty"):
        facts.certify(two, "empty", "other", 5, 6)


def test_wrong_collections(two, facts):
    facts.certify(two, "run1", "calib", 0, 5)
    with pytest.raises(UsageError, match="have their ranges already"):
        facts.certify(two, "calib", "other", 0, 5)
    with pytest.raises(UsageError, match="live in CALIBRATION collections"):
        facts.certify(two, "run1", "run2", 0, 5)
    with pytest.raises(UnknownNameError):
        facts.certify(two, "run3", "other", 0, 5)
    with pytest.raises(NothingMatched, match=r"holds bias \(2\)"):
        facts.certify(two, "run1", "other", 0, 5, "bfk")
    two.add_datasets([facts.dataset("run1", 0, "picture", is_calibration=False)])
    with pytest.raises(CertificationRefused, match="is not a calibration"):
        facts.certify(two, "run1", "other", 0, 5, "picture")
    assert two.collections("other") == []


def test_tagged_inputs(two, facts):
    two.tag("best", [two.records["run1"][0].id, two.records["run2"][1].id])
    facts.certify(two, "best", "calib", 0, 5)
    assert [row.run for row in two.validity(["calib"])] == ["run1", "run2"]


def test_gate_refuses_before_anything_is_written(two, facts):
    seen = []

    def refuse(rows):
        seen.extend(row.sha256 for row in rows)
        assert two.verifications(rows[0].sha256) == []  # it may read the repository
        raise CertificationRefused("No verification.")

    with pytest.raises(CertificationRefused, match="No verification"):
        facts.certify(two, "run1", "calib", 0, 5, gate=refuse)
    assert seen == [record.sha256 for record in two.records["run1"]]
    assert two.collections("calib") == []
    assert two.journal() == []


def test_journal(two, facts):
    evidence = {"verification": "v-1", "waivers": [1, 2]}
    facts.certify(two, "run1", "calib", 0, 9, gate=lambda rows: evidence, reason="first light")
    facts.certify(two, "run2", "calib", 3, None, truncate=True, who="ada")
    decertify(two, facts, 1, 2, reason="glow")
    one, two_, three = two.journal("calib")
    assert (one.action, one.who, one.reason) == ("certify", "tester", "first light")
    assert one.evidence == evidence
    assert one.command == "cpplug certify ..."
    assert (one.begin, one.end) == (facts.T0, facts.T0 + 9 * facts.DAY)
    assert (two_.who, two_.end, two_.dataset_type) == ("ada", None, "bias")
    assert [change.action for change in two_.changes] == [
        "shortened",
        "shortened",
        "added",
        "added",
    ]
    replaced = two_.changes[0]
    assert replaced.dataset == two.records["run1"][0].id
    assert replaced.before == (facts.T0, facts.T0 + 9 * facts.DAY)
    assert (three.action, three.reason) == ("decertify", "glow")
    assert [change.action for change in three.changes] == ["split", "split"]
    assert one.time <= two_.time <= three.time
    assert two.journal("other") == []


def test_decertify_splits(two, facts):
    facts.certify(two, "run1", "calib", 0, 10)
    changes = decertify(two, facts, 3, 5)
    assert [change.action for change in changes] == ["split", "split"]
    assert facts.ranges(two, "calib") == [(0, 3), (5, 10)]
    assert [c.action for c in decertify(two, facts, None, 1)] == ["shortened", "shortened"]
    assert facts.ranges(two, "calib") == [(1, 3), (5, 10)]
    chosen = [DataId("Mosaic", 1)]
    changes = decertify(two, facts, 2, None, data_ids=chosen)
    assert [change.action for change in changes] == ["shortened", "removed"]
    assert facts.ranges(two, "calib", 0) == [(1, 3), (5, 10)]
    assert facts.ranges(two, "calib", 1) == [(1, 2)]
    assert decertify(two, facts, 50, 60) == []
    assert len(two.journal()) == 4
    facts.certify(two, "run2", "calib", 3, 5)
    with pytest.raises(UnknownNameError):
        two.decertify("nothing", "bias", None, None, who="", command="")
    with pytest.raises(UsageError, match="live in CALIBRATION"):
        two.decertify("run1", "bias", None, None, who="", command="")


def test_validity_looks_through_chains(two, facts):
    facts.build(two, "lat", detectors=(2,), types=("bias", "dark"))
    facts.certify(two, "run1", "b", 0, 5)
    facts.certify(two, "lat", "a", 0, 5)
    facts.certify(two, "lat", "a", 0, 5, "dark")
    two.chain("all", ["b", "run1", "a"])
    assert [row.collection for row in two.validity(["all"])] == ["b", "b", "a", "a"]
    assert len(two.validity(["all"], "dark")) == 1
    assert len(two.validity(["all"], instrument="LATISS")) == 0
    assert two.validity([]) == []


class Calendar:
    """A plain model: each day has a run and the number of the range it belongs to."""

    def __init__(self):
        self.days = {}
        self.number = 0

    def overlapped(self, days):
        return {self.days[day][1] for day in days if day in self.days}

    def holds(self, days, run):
        """Tell whether this run has exactly this range."""
        return any(
            [d for d, (r, n) in sorted(self.days.items()) if (r, n) == (run, number)] == list(days)
            for number in self.overlapped(days)
        )

    def cut(self, days):
        """Take days out; what is left behind them is a range of its own."""
        for number in self.overlapped(days):
            self.number += 1
            for day, (run, n) in list(self.days.items()):
                if n == number and day > days[-1]:
                    self.days[day] = (run, self.number)
        for day in days:
            self.days.pop(day, None)

    def truncate(self, days):
        for number in self.overlapped(days):
            for day in [d for d, (_, n) in self.days.items() if n == number and d >= days[0]]:
                self.days.pop(day)

    def put(self, days, run):
        self.number += 1
        self.days |= dict.fromkeys(days, (run, self.number))


_DAYS = st.integers(-8, 8)
_STEP = st.tuples(
    st.sampled_from(["plain", "replace", "truncate", "remove"]),
    _DAYS,
    st.integers(1, 9),
    st.sampled_from(["run1", "run2"]),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_STEP, max_size=8))
def test_ranges_behave_like_a_calendar(two, facts, steps):
    """Whatever is done, each day has at most one product: the one a plain calendar would give."""
    if two.collections("calib"):
        two.remove_collections(["calib"])
    calendar = Calendar()
    for how, begin, length, run in steps:
        days = range(begin, begin + length)
        if how == "remove":
            if two.collections("calib"):
                decertify(two, facts, begin, begin + length)
            calendar.cut(days)
            continue
        options = {} if how == "plain" else {how: True}
        try:
            result = facts.certify(two, run, "calib", begin, begin + length, **options)
        except CertificationConflict:
            assert how != "replace"
            assert calendar.overlapped(days)
            continue
        assert bool(result.unchanged) == calendar.holds(days, run)
        if not result.unchanged:
            change = {"replace": calendar.cut, "truncate": calendar.truncate}.get(how)
            if change:
                change(days)
            calendar.put(days, run)
    rows = two.validity(["calib"], detector=0) if two.collections("calib") else []
    stored = {}
    for row in rows:
        first, last = ((t - facts.T0) // facts.DAY for t in (row.begin, row.end))
        for day in range(first, last):
            assert day not in stored
            stored[day] = row.run
    assert stored == {day: run for day, (run, _) in calendar.days.items()}


@given(st.integers(-50, 50), st.integers(1, 50), st.integers(-50, 50), st.integers(1, 50))
def test_cutting_keeps_what_is_outside(begin, length, cut_begin, cut_length):
    assume(begin < cut_begin + cut_length and cut_begin < begin + length)
    old = StoredRange(1, "id", DataId("I", 0), "bias", begin, begin + length)
    cut = Cut()
    cut.take(old, (cut_begin, cut_begin + cut_length))
    left = {t for low, high in cut.changes[0].after for t in range(low, high)}
    taken = set(range(cut_begin, cut_begin + cut_length))
    assert left == set(range(begin, begin + length)) - taken
