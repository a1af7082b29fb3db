"""Bringing raw files in: where they stay, what is reported, and that no frame is ever lost."""

from __future__ import annotations

import pytest

from cpplug.api.errors import RepositoryError
from cpplug.engine import ingest as module
from cpplug.engine.files import sha256_of
from cpplug.engine.ingest import find_files, ingest
from cpplug.store import Repository


class World:
    """The toy world with an empty repository and four frames."""

    def __init__(self, toy):
        self.toy = toy
        self.ids = toy.fill(4)
        self.repo = Repository.create(toy.folder / "repo", None)
        self.sums = {path.name: sha256_of(path) for path in toy.raw.iterdir()}

    def ingest(self, transfer="auto", files=None, **options):
        chosen = find_files([self.toy.raw]) if files is None else files
        return ingest(
            self.repo, self.toy.catalog(), chosen, instrument="toy", transfer=transfer, **options
        )

    def registered(self):
        found = self.repo.raw_paths("toy", 0, self.ids)
        return {number: raw.path for number, raw in found.items()}


@pytest.fixture
def world(toy):
    made = World(toy)
    yield made
    made.repo.close()


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


@pytest.mark.parametrize("transfer", ["direct", "symlink", "hardlink", "copy", "move", "auto"])
def test_each_transfer_leaves_one_readable_file(world, transfer):
    assert statuses(world.ingest(transfer)) == ["ingested"] * 4
    paths = world.registered()
    assert sorted(paths) == world.ids
    for path in paths.values():
        assert sha256_of(path) == world.sums[path.name]
        inside = path.is_relative_to(world.repo.root)
        assert inside == (transfer != "direct")
        assert path.is_symlink() == (transfer in {"symlink", "auto"})
        source = world.toy.raw / path.name
        assert source.exists() == (transfer != "move")
        if transfer in {"direct", "symlink", "auto", "hardlink"}:
            assert source.samefile(path)
    outcomes = world.ingest(transfer, list(paths.values()) if transfer == "move" else None)
    assert statuses(outcomes) == ["present"] * 4
    assert world.registered() == paths
    assert all(path.exists() for path in paths.values())


def test_auto_leaves_files_inside_the_repository_where_they_are(world):
    inside = world.repo.root / "incoming"
    world.toy.raw.rename(inside)
    assert statuses(world.ingest(files=find_files([inside]))) == ["ingested"] * 4
    assert all(path.parent == inside for path in world.registered().values())
    assert all(not path.is_symlink() for path in world.registered().values())


@pytest.mark.parametrize("transfer", ["move", "copy", "symlink"])
def test_a_file_of_the_same_name_elsewhere_gets_a_place_of_its_own(world, transfer):
    elsewhere = world.toy.folder / "elsewhere"
    elsewhere.mkdir()
    first = world.toy.write(2021010100007)
    second = world.toy.write(2021010100008)
    second = second.rename(elsewhere / first.name)
    assert statuses(world.ingest(transfer, [first, second])) == ["ingested"] * 2
    found = world.repo.raw_paths("toy", 0, [2021010100007, 2021010100008])
    sums = {number: sha256_of(raw.path) for number, raw in found.items()}
    assert sums == {number: raw.sha256 for number, raw in found.items()}
    assert len(set(sums.values())) == 2


def test_frames_that_were_moved_are_found_again(world):
    world.ingest("symlink")
    before = world.registered()
    elsewhere = world.toy.folder / "elsewhere"
    world.toy.raw.rename(elsewhere)
    assert not any(path.exists() for path in before.values())
    outcomes = world.ingest("symlink", find_files([elsewhere]))
    assert statuses(outcomes) == ["present"] * 4
    assert world.registered() == before
    assert all(sha256_of(path) == world.sums[path.name] for path in before.values())
    assert len(list((world.repo.root / "raw").rglob("*.fits"))) == 4


@pytest.mark.parametrize("transfer", ["move", "copy", "direct"])
def test_a_conflicting_header_is_reported_and_nothing_is_lost(world, transfer):
    world.ingest("copy")
    before = {number: sha256_of(path) for number, path in world.registered().items()}
    other = world.toy.write(world.ids[0], kind="dark")
    (outcome,) = world.ingest(transfer, [other])
    assert outcome.status == "conflict"
    assert "observation_type is 'bias', here 'dark'" in outcome.reason
    assert other.exists()
    assert {number: sha256_of(path) for number, path in world.registered().items()} == before


def test_other_pixels_of_the_same_exposure_are_a_conflict(world):
    world.ingest()
    elsewhere = world.toy.folder / "again"
    elsewhere.mkdir()
    path = world.toy.write(world.ids[1], value=99.0).rename(elsewhere / "again.fits")
    (outcome,) = world.ingest("move", [path])
    assert outcome.status == "conflict" and "another file" in outcome.reason
    assert path.exists()
    kept = [p for p in world.repo.root.rglob("*.fits") if "again" in p.name]
    assert kept == []


def test_threads_give_the_answers_of_one(world):
    (world.toy.raw / "a_broken.fits").write_bytes(b"")
    one = world.ingest("direct")
    with Repository.create(world.toy.folder / "second", None) as second:
        many = ingest(
            second, world.toy.catalog(), find_files([world.toy.raw]), instrument="toy",
            transfer="direct", jobs=4,
        )  # fmt: skip
    assert many == one
    assert statuses(one) == ["rejected"] + ["ingested"] * 4


def test_one_file_named_twice_is_one_frame(world):
    path = find_files([world.toy.raw])[0]
    assert find_files([path, world.toy.raw, path]).count(path) == 1
    again = path.parent / ".." / path.parent.name / path.name
    assert statuses(world.ingest("move", [path, path, again])) == ["ingested", "present"]
    assert len(world.registered()) == 1
    assert all(p.exists() for p in world.registered().values())


@pytest.mark.parametrize("transfer", ["copy", "move", "symlink", "hardlink"])
def test_a_registry_that_refuses_leaves_no_file_behind(world, monkeypatch, transfer):
    def refuse(*_, **__):
        raise RepositoryError("The registry is locked.", "Try again.")

    monkeypatch.setattr(Repository, "ingest", refuse)
    with pytest.raises(RepositoryError, match="locked"):
        world.ingest(transfer)
    assert list(world.repo.root.rglob("*.fits")) == []
    assert {path.name: sha256_of(path) for path in world.toy.raw.iterdir()} == world.sums


def test_a_transfer_that_is_not_possible_says_which_and_why(world, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(module.os, "link", refuse)
    with pytest.raises(RepositoryError, match="by hardlink: Invalid cross-device link") as caught:
        world.ingest("hardlink")
    assert "--transfer" in caught.value.next_step
    assert world.registered() == {} or not world.repo.instruments()


def test_a_stumbling_translator_stops_only_its_own_file(world):
    path = world.toy.write(2021010100009)
    from astropy.io import fits

    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EXPID"] = "no number"
    outcomes = world.ingest()
    by_name = {outcome.path: outcome for outcome in outcomes}
    assert by_name[str(path)].status == "rejected"
    assert "no number" in by_name[str(path)].reason
    assert statuses(outcomes).count("ingested") == 4


def test_progress_counts_every_file(world):
    seen = []
    world.ingest(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in range(1, 5)]


def test_a_product_of_ours_is_skipped(world):
    path = world.toy.write(2021010100009, KIND="image 1")
    outcomes = {outcome.path: outcome for outcome in world.ingest()}
    assert outcomes[str(path)].status == "skipped"
    assert "not a raw frame" in outcomes[str(path)].reason
