"""Collections: kinds, chains and their modes, removal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpplug.api.errors import CertificationRefused, RepositoryError, UnknownNameError, UsageError
from cpplug.store.collections import _rearranged
from cpplug.store.records import Change


@pytest.fixture
def abc(repo):
    for name in "abcd":
        repo.make_run(name)
    return repo


def names(rows):
    return [row.name for row in rows]


def test_make_run(repo):
    repo.make_run("u/me/biasGen.1/20210720T120000Z", "a test")
    row = repo.collection("u/me/biasGen.1/20210720T120000Z")
    assert (row.kind, row.doc, row.counts, row.coverage) == ("RUN", "a test", {}, None)
    with pytest.raises(UsageError, match="exists already"):
        repo.make_run("u/me/biasGen.1/20210720T120000Z")


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "/a", "a/", "a//b", "../x", "a/../b", "a/.", "ü", "a*"]
)
def test_names_that_cannot_be(repo, name):
    with pytest.raises(UsageError, match="cannot be the name of a collection"):
        repo.make_run(name)


def test_unknown_names_suggest_near_ones(repo):
    repo.make_run("u/czw/DM-28920/biasGen.20210702a")
    with pytest.raises(UnknownNameError) as caught:
        repo.collection("u/czw/DM-28920/biasGen")
    assert "biasGen.20210702a" in caught.value.next_step
    with pytest.raises(UnknownNameError) as caught:
        repo.flatten(["u/czw/DM-28920/biasGen.20210702b"])
    assert "biasGen.20210702a" in caught.value.next_step


def test_redefine(abc):
    assert abc.chain("z", ["a", "b"]) == ["a", "b"]
    assert abc.chain("z", ["c,b", "c"]) == ["c", "b"]
    assert abc.collection("z").children == ("c", "b")
    assert abc.chain("z", []) == []


def test_extend_and_prepend_make_and_move(abc):
    assert abc.chain("z", ["a", "b", "c"], "extend") == ["a", "b", "c"]
    assert abc.chain("z", ["a"], "extend") == ["b", "c", "a"]
    assert abc.chain("z", ["a"], "prepend") == ["a", "b", "c"]
    assert abc.chain("z", ["d", "c"], "prepend") == ["d", "c", "a", "b"]
    assert abc.chain("y", ["b", "a"], "prepend") == ["b", "a"]


def test_remove(abc):
    abc.chain("z", ["a", "b", "c"])
    assert abc.chain("z", ["b", "d"], "remove") == ["a", "c"]
    with pytest.raises(UnknownNameError, match="'e'"):
        abc.chain("z", ["e"], "remove")
    with pytest.raises(UnknownNameError, match="'nothing'"):
        abc.chain("nothing", ["a"], "remove")
    assert names(abc.collections("nothing")) == []


def test_pop(abc):
    abc.chain("z", ["a", "b", "c", "d"])
    assert abc.chain("z", [], "pop") == ["b", "c", "d"]
    assert abc.chain("z", [], "pop", [-1, 0]) == ["c"]
    with pytest.raises(UsageError, match="none at index 1"):
        abc.chain("z", [], "pop", [1])
    with pytest.raises(UsageError, match="no chain mode 'shuffle'"):
        abc.chain("z", [], "shuffle")


def test_chains_have_no_cycles(abc):
    abc.chain("x", ["a"])
    abc.chain("y", ["x"])
    abc.chain("z", ["y", "b"])
    for mode in ("redefine", "extend", "prepend"):
        with pytest.raises(UsageError, match="cannot become a part of itself"):
            abc.chain("x", ["z"], mode)
        with pytest.raises(UsageError, match="cannot become a part of itself"):
            abc.chain("x", ["x"], mode)
    assert abc.collection("x").children == ("a",)


def test_only_chains_have_children(abc):
    with pytest.raises(UsageError, match="'a' is a RUN collection, not a chain"):
        abc.chain("a", ["b"])
    with pytest.raises(UnknownNameError):
        abc.chain("new", ["a", "nothing"])
    assert names(abc.collections("new")) == []


def test_flatten_is_depth_first_and_keeps_the_first(abc):
    abc.chain("inner", ["c", "a"])
    abc.chain("outer", ["b", "inner", "a", "d"])
    assert names(abc.flatten(["outer"])) == ["b", "c", "a", "d"]
    assert names(abc.flatten(["a,inner", "outer"])) == ["a", "c", "b", "d"]
    assert abc.flatten([]) == []


def test_listing(abc, facts):
    facts.build(abc, "LATISS/run", types=("bias", "flat"))
    facts.certify(abc, "LATISS/run", "LATISS/calib", 0, 5)
    abc.chain("LATISS/chain", ["LATISS/calib"])
    assert names(abc.collections("LATISS/*")) == ["LATISS/calib", "LATISS/chain", "LATISS/run"]
    assert names(abc.collections(kinds=["CHAINED", "CALIBRATION"])) == [
        "LATISS/calib",
        "LATISS/chain",
    ]
    assert abc.collection("LATISS/run").counts == {"bias": 2, "flat": 2}
    row = abc.collection("LATISS/calib")
    assert row.counts == {"bias": 2}
    assert row.coverage == (facts.T0, facts.T0 + 5 * facts.DAY)
    facts.certify(abc, "LATISS/run", "LATISS/calib", 5, None)
    assert abc.collection("LATISS/calib").coverage == (facts.T0, None)
    assert abc.collection("LATISS/calib").counts == {"bias": 2}


def test_tagging(repo, facts):
    one, two = facts.build(repo, "run1", detectors=(0, 1))
    (other,) = facts.build(repo, "run2", detectors=(0,))
    repo.tag("best", [one.id, two.id])
    repo.tag("best", [one.id])
    assert repo.collection("best").counts == {"bias": 2}
    with pytest.raises(UsageError, match="would hold two products bias for Mosaic detector 0"):
        repo.tag("best", [other.id])
    with pytest.raises(UsageError, match="would hold two"):
        repo.tag("new", [one.id, other.id])
    assert names(repo.collections("new")) == []
    repo.untag("best", [one.id, other.id])
    repo.tag("best", [other.id])
    assert {row.id for row in repo.datasets(collections=["best"])} == {two.id, other.id}
    with pytest.raises(UnknownNameError, match="no product 'nothing'"):
        repo.tag("best", ["nothing"])
    with pytest.raises(UsageError, match="is RUN, not TAGGED"):
        repo.tag("run1", [one.id])
    with pytest.raises(UsageError, match="is RUN, not TAGGED"):
        repo.untag("run1", [one.id])


def test_remove_collections(abc, facts):
    (one,) = facts.build(abc, "run", detectors=(0,))
    abc.tag("tags", [one.id])
    facts.certify(abc, "run", "calib", 0, 5)
    abc.chain("z", ["tags", "calib"])
    with pytest.raises(UsageError, match="'tags' is part of 'z'"):
        abc.remove_collections(["tags"])
    with pytest.raises(UsageError, match="'a' is a RUN"):
        abc.remove_collections(["tags", "a"], from_parents=True)
    assert abc.collection("z").children == ("tags", "calib")
    abc.remove_collections(["tags"], from_parents=True)
    assert abc.collection("z").children == ("calib",)
    abc.remove_collections(["z", "calib"], who="me", command="x")
    assert names(abc.collections()) == ["a", "b", "c", "d", "run"]
    assert abc.dataset(one.id).run == "run"
    note = abc.journal("calib")[-1]
    assert (note.action, note.who) == ("remove-collection", "me")
    assert note.changes == (
        Change(
            action="removed", dataset=one.id, data_id=one.data_id,
            before=(facts.T0, facts.T0 + 5 * facts.DAY), after=(),
        ),
    )  # fmt: skip


def test_remove_run(repo, facts):
    (one,) = facts.build(repo, "gen/run1", detectors=(0,))
    (two,) = facts.build(repo, "gen/run2", detectors=(1,))
    for record in (one, two):
        file = repo.root / record.path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    repo.tag("tags", [one.id])
    repo.chain("gen", ["gen/run1", "gen/run2"])
    with pytest.raises(UsageError, match="'gen/run1' is part of 'gen'"):
        repo.remove_run("gen/run1")
    assert (repo.root / one.path).exists()
    removed = repo.remove_run("gen/run1", unlink=True)
    assert removed.datasets == (one.id,)
    assert removed.files == (repo.root / one.path,)
    assert not (repo.root / "datasets/gen/run1").exists()
    assert (repo.root / two.path).exists()
    assert repo.collection("gen").children == ("gen/run2",)
    assert repo.collection("tags").counts == {}
    with pytest.raises(UnknownNameError):
        repo.dataset(one.id)
    repo.make_run("gen/run1")
    with pytest.raises(UsageError, match="not a RUN"):
        repo.remove_run("gen")


def test_certified_runs_are_protected(repo, facts):
    records = facts.build(repo, "run", detectors=range(4))
    facts.certify(repo, "run", "calib", 0, 5)
    (repo.root / records[0].path).parent.mkdir(parents=True)
    (repo.root / records[0].path).write_bytes(b"x")
    with pytest.raises(CertificationRefused) as caught:
        repo.remove_run("run")
    assert caught.value.exit_code == 6
    for word in (records[0].id, "Mosaic detector 0", "calib", "[2021-01-20T00:00:00, 2021-01-25",
                 "and 1 more"):  # fmt: skip
        assert word in caught.value.message
    assert len(repo.validity(["calib"])) == 4
    assert (repo.root / records[0].path).exists()
    removed = repo.remove_run("run", decertify=True, who="me", command="c", reason="bad")
    assert len(removed.changes) == 4
    assert removed.changes[0][0] == "calib"
    assert repo.validity(["calib"]) == []
    note = repo.journal()[-1]
    assert (note.action, note.collection, note.reason) == ("remove-run", "calib", "bad")
    assert {change.dataset for change in note.changes} == {record.id for record in records}


def test_files_that_cannot_be_deleted_are_named(repo, facts):
    one, two = facts.build(repo, "run")
    (repo.root / one.path).mkdir(parents=True)  # a folder where a file should be
    (repo.root / two.path).write_bytes(b"x")
    with pytest.raises(RepositoryError, match="1 of its files could not be deleted") as caught:
        repo.remove_run("run")
    assert one.path in caught.value.message
    assert not (repo.root / two.path).exists()
    assert repo.datasets() == []


def test_remove_raw_run_spares_files_of_others(repo, facts, tmp_path):
    outside = tmp_path / "camera.fits"
    outside.write_bytes(b"x")
    inside = repo.root / "raw/all/1.fits"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"y")
    raws = [
        facts.raw_of(facts.info(0), path=str(outside)),
        facts.raw_of(facts.info(1), path="raw/all/1.fits"),
    ]
    repo.ingest(raws, "raw/all")
    repo.ingest([facts.raw(2)], "raw/more")
    with pytest.raises(UsageError, match="only copies"):
        repo.remove_run("raw/all")
    assert inside.exists() and len(repo.exposures()) == 3
    removed = repo.remove_run("raw/all", delete_raws=True)
    assert (removed.n_raws, removed.n_exposures) == (2, 2)
    assert removed.files == (inside,)
    assert outside.exists()
    assert not inside.exists()
    assert [info.seq_num for info in repo.exposures()] == [2]


_CHILDREN = st.lists(st.integers(0, 6), unique=True, max_size=6)


@given(_CHILDREN, _CHILDREN, st.sampled_from(["redefine", "extend", "prepend", "remove"]))
def test_modes_keep_children_unique_and_in_order(before, given_ones, mode):
    after = _rearranged(list(before), list(given_ones), mode, (0,), "z")
    assert len(after) == len(set(after))
    rest = [child for child in before if child not in given_ones]
    expected = {
        "redefine": given_ones, "extend": rest + given_ones, "prepend": given_ones + rest,
        "remove": rest,
    }  # fmt: skip
    assert after == expected[mode]
