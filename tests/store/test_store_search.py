"""Finding a calibration: boundaries, order of collections, spans, and the explanation."""

import pytest

from cpplug.api.errors import CalibrationAmbiguous, CalibrationMissing, UnknownNameError
from cpplug.store.records import DataId, Found

ZERO = DataId("Mosaic", 0)


@pytest.fixture
def lm(repo, facts):
    """L: run1 on days 0-5 and run2 on 5-10. M: run3 on days 0-20. free: not certified."""
    for name in ("run1", "run2", "run3", "free"):
        facts.build(repo, name)
    facts.certify(repo, "run1", "L", 0, 5)
    facts.certify(repo, "run2", "L", 5, 10)
    facts.certify(repo, "run3", "M", 0, 20)
    return repo


@pytest.fixture
def find(lm, facts):
    def find(day, *names, data_id=ZERO, **options):
        if isinstance(day, tuple):
            at = tuple(None if d is None else facts.T0 + round(d * facts.DAY) for d in day)
        else:
            at = None if day is None else facts.T0 + round(day * facts.DAY)
        return lm.find("bias", data_id, names, at, **options)

    return find


def test_half_open_at_both_ends(find, facts, lm):
    assert find(0, "L").dataset.run == "run1"
    assert find(5, "L").dataset.run == "run2"
    just_before = facts.T0 + 5 * facts.DAY - 1
    assert lm.find("bias", ZERO, ["L"], just_before).dataset.run == "run1"
    for day in (10, -1):
        with pytest.raises(CalibrationMissing):
            find(day, "L")
    with pytest.raises(CalibrationMissing):
        lm.find("bias", ZERO, ["L"], facts.T0 - 1)


def test_what_is_found(find, facts):
    found = find(6, "L")
    assert found.collection == "L"
    assert found.dataset.collection == "L"
    assert found.dataset.data_id == ZERO
    assert (found.begin, found.end) == (facts.T0 + 5 * facts.DAY, facts.T0 + 10 * facts.DAY)
    run = find(6, "free")
    assert (run.begin, run.end, run.collection) == (None, None, "free")


@pytest.mark.parametrize(
    ("day", "names", "run"),
    [
        (12, ("L", "M"), "run3"),
        (2, ("L", "M"), "run1"),
        (2, ("M", "L"), "run3"),
        (500, ("free", "L"), "free"),
        (2, ("free", "L"), "free"),
        (2, ("L", "free"), "run1"),
        (500, ("L", "free"), "free"),
        (2, ("L,free",), "run1"),
    ],
)
def test_first_collection_with_a_candidate_wins(find, day, names, run):
    assert find(day, *names).dataset.run == run


def test_chains_are_searched_depth_first(lm, find):
    lm.chain("inner", ["L"])
    lm.chain("outer", ["inner", "M", "free"])
    assert [find(day, "outer").dataset.run for day in (2, 12, 25)] == ["run1", "run3", "free"]
    with pytest.raises(UnknownNameError):
        find(2, "nothing")


@pytest.mark.parametrize(
    ("span", "run"),
    [((4, 5), "run1"), ((5, 6), "run2"), ((-3, 1), "run1"), ((9, 15), "run2"), ((None, 1), "run1")],
)
def test_spans_overlap(find, span, run):
    assert find(span, "L").dataset.run == run


def test_straddling_is_ambiguous_even_if_a_later_collection_is_clear(find):
    with pytest.raises(CalibrationAmbiguous) as caught:
        find((4, 6), "L", "M")
    for word in ("2 bias products of Mosaic detector 0", "in L", "2021-01-25T00:00:00"):
        assert word in caught.value.message
    assert "--at" in caught.value.next_step
    assert caught.value.exit_code == 5
    assert find(5, "L", "M").dataset.run == "run2"  # its middle is in one range only


def test_all_time(find):
    assert find(None, "M").dataset.run == "run3"
    assert find(None, "free", "L").dataset.run == "free"
    with pytest.raises(CalibrationAmbiguous, match="for all time"):
        find(None, "L")
    with pytest.raises(CalibrationMissing, match="for all time"):
        find(None, "L", data_id=DataId("Mosaic", 3))


def test_several_ranges_of_one_product_are_not_ambiguous(lm, find, facts):
    facts.certify(lm, "run3", "N", 0, 2)
    facts.certify(lm, "run3", "N", 4, 6)
    assert find(None, "N").dataset.run == "run3"


def test_tagged_collections_fit_at_any_time(lm, find):
    lm.tag("T", [find(2, "free").dataset.id])
    assert find(900, "T").dataset.run == "free"


def test_filters(repo, facts):
    facts.build(repo, "flats", types=("flat",), detectors=(0,), filters=("g", "r"))
    facts.build(repo, "biases", detectors=(0,))
    facts.certify(repo, "flats", "calib", 0, 5, "flat")
    facts.certify(repo, "biases", "calib", 0, 5)
    red = DataId("Mosaic", 0, "r")
    assert repo.find("flat", red, ["calib"], facts.T0).dataset.data_id == red
    assert repo.find("bias", red, ["calib"], facts.T0).dataset.run == "biases"
    for data_id in (ZERO, DataId("Mosaic", 0, "i"), DataId("LATISS", 0, "r")):
        with pytest.raises(CalibrationMissing):
            repo.find("flat", data_id, ["calib"], facts.T0)


def test_missing_says_what_was_seen(find, lm):
    lm.chain("empty", [])
    with pytest.raises(CalibrationMissing) as caught:
        find(30, "empty", "L", "M")
    assert (
        "No bias of Mosaic detector 0 was found at 2021-02-19T00:00:00 TAI" in caught.value.message
    )
    lines = caught.value.message.splitlines()
    assert lines[1].startswith("  L (CALIBRATION): bias for Mosaic detector 0, but valid only")
    assert "[2021-01-25T00:00:00, 2021-01-30T00:00:00) TAI" in lines[1]
    assert lines[2].startswith("  M (CALIBRATION)")
    assert "cpplug run bias" in caught.value.next_step
    with pytest.raises(CalibrationMissing, match="No collections were searched"):
        find(30)


def test_trace(find):
    found = find(12, "free", data_id=ZERO)
    assert [step.outcome for step in found.trace] == [
        f"bias {found.dataset.id} of run free, at any time"
    ]
    found = find(12, "L", "M", explain=True)
    assert [(step.collection, step.kind) for step in found.trace] == [
        ("L", "CALIBRATION"), ("M", "CALIBRATION")
    ]  # fmt: skip
    assert "valid only [2021-01-20T00:00:00" in found.trace[0].outcome
    assert "valid [2021-01-20T00:00:00, 2021-02-09T00:00:00) TAI" in found.trace[1].outcome
    assert find(12, "L", "M").trace[0].outcome.endswith("that is valid then")
    assert find(12, "L", "M").dataset == found.dataset


def test_many_at_once_agree_with_one_at_a_time(lm, find, facts):
    wanted = [
        (DataId("Mosaic", detector), facts.T0 + day * facts.DAY)
        for detector in (0, 1, 2)
        for day in range(-2, 23)
    ]
    wanted += [(ZERO, None), (ZERO, (facts.T0, facts.T0 + 1))]
    many = lm.find_many("bias", wanted, ["L", "M"])
    assert len(many) == len(wanted)
    for (data_id, at), result in zip(wanted, many, strict=True):
        try:
            expected = lm.find("bias", data_id, ["L", "M"], at)
        except (CalibrationMissing, CalibrationAmbiguous) as error:
            assert type(result) is type(error)
            assert str(result) == str(error)
        else:
            assert isinstance(result, Found)
            assert (result.dataset, result.collection, result.begin, result.end) == (
                expected.dataset, expected.collection, expected.begin, expected.end
            )  # fmt: skip
    assert lm.find_many("bias", [], ["L"]) == []
