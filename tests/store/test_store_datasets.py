"""Products on record."""

import pytest

from cpplug.api.errors import RepositoryError, UnknownNameError, UsageError, WhereSyntaxError
from cpplug.store.records import DataId


def test_round_trip(repo, facts):
    (record,) = facts.build(repo, "run", detectors=(2,))
    row = repo.dataset(record.id)
    for name in ("id", "dataset_type", "run", "data_id", "path", "sha256", "size", "created",
                 "is_calibration"):  # fmt: skip
        assert getattr(row, name) == getattr(record, name)
    assert row.collection == "run"
    assert repo.provenance(record.id) == record.provenance
    with pytest.raises(UnknownNameError):
        repo.provenance("nothing")


def test_one_of_a_type_per_data_id_and_run(repo, facts):
    repo.make_run("run")
    first = facts.dataset("run", 0)
    repo.add_datasets([first])
    for more in ([facts.dataset("run", 1), facts.dataset("run", 0)],
                 [facts.dataset("run", 1), facts.dataset("run", 1)]):  # fmt: skip
        with pytest.raises(RepositoryError, match="holds a bias for Mosaic detector"):
            repo.add_datasets(more)
    assert [row.id for row in repo.datasets("bias")] == [first.id]
    repo.add_datasets([
        facts.dataset("run", 0, "dark"),
        facts.dataset("run", 0, "flat", physical_filter="r"),
        facts.dataset("run", 0, "flat", physical_filter="g"),
    ])  # fmt: skip
    assert len(repo.datasets()) == 4


def test_products_need_a_run_and_a_place_inside(repo, facts):
    with pytest.raises(UnknownNameError, match="no collection 'run'"):
        repo.add_datasets([facts.dataset("run")])
    repo.chain("chain", [])
    with pytest.raises(UsageError, match="'chain' is CHAINED"):
        repo.add_datasets([facts.dataset("chain")])
    repo.make_run("run")
    for path in ("/tmp/x.fits", "../x.fits", "datasets/../../x"):
        with pytest.raises(UsageError, match="must lie in the repository"):
            repo.add_datasets([facts.dataset("run", path=path)])
    assert repo.datasets() == []


def test_prefixes(repo, facts):
    repo.make_run("run")
    repo.add_datasets([
        facts.dataset("run", 0, id="12345678-0000-4000-8000-000000000000", sha256="abcd" * 16),
        facts.dataset("run", 1, id="12340000-0000-4000-8000-000000000000", sha256="abce" * 16),
    ])  # fmt: skip
    assert repo.dataset("12345").data_id.detector == 0
    assert repo.dataset("ABCE").data_id.detector == 1
    assert repo.dataset("sha256:" + "abcd" * 16).data_id.detector == 0
    with pytest.raises(UsageError, match="fits several products"):
        repo.dataset("1234")
    with pytest.raises(UnknownNameError, match="no product"):
        repo.dataset("ffff")
    for text in ("abc", "x*", "%%%%", "[0-9]1234"):
        with pytest.raises(UsageError, match="is not the id or checksum"):
            repo.dataset(text)


def test_same_content_twice_is_told_apart_by_id(repo, facts):
    repo.make_run("one")
    repo.make_run("two")
    pair = [facts.dataset(run, 0, sha256="c" * 64) for run in ("one", "two")]
    repo.add_datasets(pair)
    with pytest.raises(UsageError, match="fits several products"):
        repo.dataset("c" * 64)
    assert repo.dataset(pair[1].id).run == "two"


@pytest.fixture
def stocked(repo, facts):
    facts.build(repo, "run1", detectors=(0, 1), types=("bias", "dark"))
    facts.build(repo, "run2", detectors=(1, 2), types=("bias",))
    facts.build(repo, "flats", detectors=(0,), types=("flat",), filters=("g", "r"))
    repo.chain("all", ["run2", "run1", "flats"])
    return repo


def test_selection(stocked):
    def found(*args, **options):
        return [
            (r.run, r.dataset_type, r.data_id.detector) for r in stocked.datasets(*args, **options)
        ]

    assert len(found()) == 8
    assert found("dark") == [("run1", "dark", 0), ("run1", "dark", 1)]
    assert len(found("b*")) == 4
    assert found("bias", ["run2"]) == [("run2", "bias", 1), ("run2", "bias", 2)]
    assert found("bias", ["all"]) == [
        ("run2", "bias", 1), ("run2", "bias", 2), ("run1", "bias", 0), ("run1", "bias", 1)
    ]  # fmt: skip
    assert found("bias", ["all"], find_first=True) == [
        ("run2", "bias", 1), ("run2", "bias", 2), ("run1", "bias", 0)
    ]  # fmt: skip
    assert len(found("flat", ["all"], find_first=True)) == 2
    assert found(instrument="LATISS") == []
    assert found(where="dataset.run = 'run2' AND detector = 'S02'") == [("run2", "bias", 2)]
    assert found(where="physical_filter IN (:f)", binds={"f": ["r"]}) == [("flats", "flat", 0)]
    assert len(found(where="is_calibration AND NOT dataset_type = 'flat'")) == 6
    assert len(found(where="created >= T'2021-01-20' AND size > 5000")) == 8
    with pytest.raises(WhereSyntaxError) as caught:
        found(where="datset_type = 'flat'")
    assert "dataset_type" in caught.value.next_step


def test_calibration_collections_list_products_once(stocked, facts):
    facts.certify(stocked, "run1", "calib", 0, 5)
    facts.certify(stocked, "run1", "calib", 7, 9)
    rows = stocked.datasets("bias", ["calib"])
    assert [row.data_id for row in rows] == [DataId("Mosaic", 0), DataId("Mosaic", 1)]
    assert {row.collection for row in rows} == {"calib"}
