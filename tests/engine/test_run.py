"""A run: what it makes, what it notes down, how much may fail, and where it goes on."""

from __future__ import annotations

import json

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from cpplug.api.errors import (
    CalibrationMissing,
    DataError,
    NothingMatched,
    PluginError,
    RepositoryError,
    UnitsFailed,
    UsageError,
)
from cpplug.engine.failures import allowed_failures
from cpplug.engine.ingest import ingest
from cpplug.engine.ledger import Ledger, last_sequence
from cpplug.engine.names import new_run
from cpplug.engine.plan import Request, make_plan
from cpplug.engine.run import Driver, RunOptions


class Runs:
    """The toy world with a repository, and one way to build."""

    def __init__(self, toy, n=6):
        self.toy = toy
        self.repo, self.ids = toy.repository(n)
        self.heard = []

    def driver(self, output="u/me/toyGen", request=None, **options):
        catalog = self.toy.catalog()
        asked = {"calibration": "toymean", "instrument": "toy", **(request or {})}
        prepared = make_plan(self.repo, catalog, Request(**asked))
        return Driver(
            self.repo,
            catalog,
            prepared,
            RunOptions(output=output, command="cpplug run toymean", **options),
            [("recorder", self.heard.append)],
        )

    def build(self, output="u/me/toyGen", request=None, **options):
        return self.driver(output, request, **options).carry_out()

    def pixels(self, result):
        (product,) = result.products
        with fits.open(self.repo.root / product.path) as hdus:
            return [hdu.data.tobytes() for hdu in hdus[1:]]

    def names(self):
        return [envelope.event for envelope in self.heard]


@pytest.fixture
def runs(toy):
    world = Runs(toy)
    yield world
    world.repo.close()


# ---- what is made --------------------------------------------------------------------------------
def test_one_worker_and_two_make_the_same_pixels(runs):
    one, two = runs.build(jobs=1), runs.build(jobs=2)
    assert runs.pixels(one) == runs.pixels(two)
    assert [r.products[0].sha256 for r in (one, two)] != [one.products[0].sha256] * 2


def test_every_run_is_a_new_collection_in_front_of_the_chain(runs):
    results = [runs.build() for _ in range(3)]
    names = [result.run for result in results]
    assert len(set(names)) == 3
    assert list(runs.repo.collection("u/me/toyGen").children) == names[::-1]
    assert [row.status for row in runs.repo.runs()] == ["done"] * 3


def test_runs_of_one_second_get_different_names(runs, monkeypatch):
    import time

    noon = time.gmtime(0)
    monkeypatch.setattr(time, "gmtime", lambda *_: noon)
    names = [new_run(runs.repo, "u/me/x", "") for _ in range(3)]
    assert names == [f"u/me/x/19700101T000000Z{end}" for end in ("", ".1", ".2")]


@pytest.mark.parametrize("output", ["", "a b", "../up", "toy/raw/all", "u/me/../x"])
def test_an_output_that_can_hold_no_run_is_refused_before_anything_is_made(runs, output):
    before = [row.name for row in runs.repo.collections()]
    with pytest.raises(UsageError):
        runs.build(output)
    assert [row.name for row in runs.repo.collections()] == before
    assert runs.repo.runs() == []


@pytest.fixture
def elsewhere(runs):
    """Three more exposures, in a RUN that is not among the default inputs."""
    ids = runs.toy.fill(3, first=2021010200001)
    files = [runs.toy.raw / f"toy_{number}.fits" for number in ids]
    ingest(runs.repo, runs.toy.catalog(), files, instrument="toy", run="toy/raw/test")
    runs.repo.chain("toy/empty", [])
    return ids


@pytest.mark.parametrize(
    ("inputs", "n"),
    [
        ((), 6),
        (("toy/raw/all",), 6),
        (("toy/raw/test",), 3),
        (("toy/raw/all", "toy/raw/test"), 9),
        (("toy/empty",), 9),  # it says nothing about raw frames
    ],
)
def test_raw_frames_come_from_the_input_collections(runs, elsewhere, inputs, n):
    plan = runs.driver(request={"inputs": inputs}).plan
    assert len(plan.exposures()) == n


def test_raw_frames_outside_the_input_collections_are_said(runs, elsewhere):
    listed = (*elsewhere, *runs.ids)
    plan = runs.driver(request={"exposures": listed}).plan
    reason = "its raw frame is in none of the input collections"
    assert dict(plan.rejected) == dict.fromkeys(elsewhere, reason)
    with pytest.raises(NothingMatched, match="3 toy exposures match, and none of their raw frames"):
        runs.driver(request={"where": "day_obs = 20210102"})


def test_provenance_tells_all_that_decided_the_product(runs):
    result = runs.build(request={"overrides": ("isr:doToyNeeds=False",)})
    (product,) = result.products
    facts = runs.repo.provenance(product.id)
    paths = runs.repo.raw_paths("toy", 0, runs.ids)
    assert facts["inputs"] == [
        {"exposure": number, "sha256": paths[number].sha256} for number in runs.ids
    ]
    assert facts["command"] == "cpplug run toymean"
    assert facts["config"]["isr.do_toy_needs"] == [False, "-c isr:doToyNeeds=False"]
    value, source = facts["config"]["isr.do_toy_assemble"]
    assert value is True and source
    assert facts["steps"] == ["toy_misbehave", "toy_assemble"]
    assert facts["software"]["cpplug"] and facts["plugins"]
    folder = runs.repo.root / "runs" / result.run
    assert json.loads((folder / "config.json").read_text()) == facts["config"]
    assert json.loads((folder / "summary.json").read_text())["products"] == [product.id]
    header = fits.getheader(runs.repo.root / product.path)
    assert header["CPP_RUN"] == result.run and header["CPP_NINP"] == 6


# ---- what may fail -------------------------------------------------------------------------------
@given(total=st.integers(1, 500), share=st.floats(0, 100))
def test_a_share_never_allows_more_than_itself(total, share):
    allowed = allowed_failures(f"{share}%", total)
    assert 0 <= allowed <= total * share / 100
    assert allowed_failures("100%", total) == total
    assert allowed_failures(str(allowed), total) == allowed


@pytest.mark.parametrize("text", ["", "half", "-1", "101%", "nan%", "1.5", "%", "-0.1%"])
def test_a_senseless_share_stops_before_the_run_begins(runs, text):
    with pytest.raises(UsageError, match="is not a number of exposures or a percentage"):
        runs.build(max_failed=text)
    assert runs.repo.runs() == []


def test_as_many_as_allowed_may_fail(runs):
    runs.toy.order(runs.ids[1], "fail")
    result = runs.build(max_failed="1")
    (product,) = result.products
    assert result.failed == (f"toy/D0/{runs.ids[1]}: Step toy_misbehave: the toy is told to fail",)
    used = [item["exposure"] for item in runs.repo.provenance(product.id)["inputs"]]
    assert used == [number for number in runs.ids if number != runs.ids[1]]
    assert runs.repo.provenance(product.id)["n_failed"] == 1
    assert "unit.failed" in runs.names() and "run.finished" in runs.names()


def test_one_more_than_allowed_makes_no_product_and_keeps_the_good_units(runs):
    for number in runs.ids[:2]:
        runs.toy.order(number, "fail")
    with pytest.raises(UnitsFailed, match="2 of 6 units failed, more than --max-failed 1 allows"):
        runs.build(max_failed="1")
    assert runs.repo.datasets() == []
    assert [row.status for row in runs.repo.runs()] == ["failed"]
    for number in runs.ids[:2]:
        runs.toy.forgive(number)
    result = runs.build(resume=True)
    assert result.skipped == 4 and len(result.products) == 1
    assert [row.status for row in runs.repo.runs()] == ["done"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_fail_fast_stops_at_the_first_failure(runs, jobs):
    runs.toy.order(runs.ids[0], "fail")
    with pytest.raises(UnitsFailed, match="the toy is told to fail"):
        runs.build(fail_fast=True, jobs=jobs, max_failed="100%")
    assert runs.names().count("unit.failed") == 1
    assert runs.names().count("unit.finished") < 5
    assert runs.names()[-1] == "run.failed"


def test_a_step_that_breaks_is_named(runs):
    runs.toy.order(runs.ids[2], "break")
    with pytest.raises(UnitsFailed, match="Step toy_misbehave broke: ValueError: the toy breaks"):
        runs.build(max_failed="0")


def test_a_calibration_that_breaks_is_named_and_its_traceback_kept(runs):
    text = runs.toy.plugin.read_text()
    runs.toy.plugin.write_text(text.replace("images.mean(axis=0)", "images.nonsense()"))
    with pytest.raises(PluginError, match="Calibration toymean broke while it was made for D0"):
        runs.build()
    (row,) = runs.repo.runs()
    assert row.status == "failed"
    trace = (runs.repo.root / "runs" / row.run / "traceback.txt").read_text()
    assert "AttributeError" in trace and "nonsense" in trace


# ---- going on ------------------------------------------------------------------------------------
def test_a_finished_run_leaves_nothing_to_resume(runs):
    first = runs.build()
    before = (runs.repo.root / "runs" / first.run / "events.jsonl").read_bytes()
    second = runs.build(resume=True)
    assert second.nothing_to_do and second.run == first.run
    assert [p.id for p in second.products] == [p.id for p in first.products]
    assert (runs.repo.root / "runs" / first.run / "events.jsonl").read_bytes() == before


def test_resume_with_other_options_is_a_new_run(runs):
    runs.toy.order(runs.ids[0], "fail")
    with pytest.raises(UnitsFailed):
        runs.build()
    runs.toy.forgive(runs.ids[0])
    other = runs.build(request={"exposures": tuple(runs.ids[1:])}, resume=True)
    assert not other.skipped
    assert sorted(row.status for row in runs.repo.runs()) == ["done", "failed"]


def test_a_product_registered_before_the_run_broke_off_is_kept(runs, monkeypatch):
    monkeypatch.setattr(Driver, "_close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.build()
    monkeypatch.undo()
    assert [row.status for row in runs.repo.runs()] == ["interrupted"]
    (before,) = runs.repo.datasets()
    result = runs.build(resume=True)
    assert [product.id for product in result.products] == [before.id]
    assert [row.id for row in runs.repo.datasets()] == [before.id]
    assert [row.status for row in runs.repo.runs()] == ["done"]


def test_a_unit_whose_mark_is_damaged_is_done_again(runs):
    runs.toy.order(runs.ids[5], "fail")
    with pytest.raises(UnitsFailed):
        runs.build(max_failed="0")
    runs.toy.forgive(runs.ids[5])
    mark = next(runs.repo.root.glob("runs/**/*.done.npz"))
    mark.write_bytes(mark.read_bytes()[:40])
    result = runs.build(resume=True)
    assert result.skipped == 4
    assert runs.pixels(result) == runs.pixels(runs.build("u/me/other"))


def test_a_run_that_cannot_begin_is_written_down_as_failed(runs, monkeypatch):
    def refuse(*_):
        raise RepositoryError("The disk is full.", "Free some space.")

    monkeypatch.setattr(Ledger, "write", refuse)
    with pytest.raises(RepositoryError, match="The disk is full"):
        runs.build()
    assert [row.status for row in runs.repo.runs()] == ["failed"]


# ---- the ledger ----------------------------------------------------------------------------------
def test_a_ledger_belongs_to_one_process_at_a_time(tmp_path):
    first = Ledger(tmp_path)
    with pytest.raises(RepositoryError, match="Another process is at work on the run"):
        Ledger(tmp_path)
    first.close()
    Ledger(tmp_path).close()


@pytest.mark.parametrize("tail", [b"", b"{", b'{"seq":9}', b"x" * 200_000])
def test_a_torn_last_line_is_cut_off(tmp_path, tail):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq":1}\n{"seq":2}\n' + tail)
    Ledger(tmp_path).close()
    assert path.read_bytes() == b'{"seq":1}\n{"seq":2}\n'
    assert last_sequence(path) == 2


def test_a_ledger_without_a_whole_line_begins_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq":1')
    Ledger(tmp_path).close()
    assert path.read_bytes() == b""


# ---- the plan ------------------------------------------------------------------------------------
def test_a_missing_calibration_stops_the_plan_and_is_named(runs):
    with pytest.raises(CalibrationMissing, match="Step 'toy_needs' needs a toymean") as caught:
        runs.driver(request={"overrides": ("isr:doToyNeeds=True",)})
    assert "isr:do_toy_needs=False" in caught.value.next_step
    assert runs.repo.runs() == []


def test_a_mixture_of_binnings_is_refused(runs):
    path = runs.toy.write(2021010100099, BINX=2, BINY=2)
    from cpplug.engine.ingest import ingest

    ingest(runs.repo, runs.toy.catalog(), [path], instrument="toy")
    with pytest.raises(DataError, match="6 binned 1x1, 1 binned 2x2"):
        runs.driver()


def test_a_full_disk_is_no_failed_exposure(toy, monkeypatch) -> None:
    """Frames that a full disk took must not be missing from a master."""
    from cpplug.engine import frames

    repo, ids = toy.repository(20)
    real = frames.write_frame

    def full_once(stem, exposure):
        if stem.name == str(ids[3]):
            raise RepositoryError("Scratch is full.", "Free space.")
        real(stem, exposure)

    monkeypatch.setattr(frames, "write_frame", full_once)
    catalog = toy.catalog()
    prepared = make_plan(repo, catalog, Request(calibration="toymean", instrument="toy"))
    with pytest.raises(RepositoryError, match="Scratch is full"):
        Driver(repo, catalog, prepared, RunOptions(output="u/me/full"), []).carry_out()
    assert repo.datasets("toymean") == []
