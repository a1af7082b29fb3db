"""Repositories that are missing, foreign, locked, unwritable or full: exit code 9, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cpplug.engine import files
from cpplug.store import Repository, schema

MARKER, REGISTRY = "cpplug-repository.toml", "registry.sqlite3"
BUILD = ("run", "bias", "--instrument", "simcam")


def set_schema(shell, version):
    with contextlib.closing(sqlite3.connect(shell.repo / REGISTRY)) as registry, registry:
        changed = registry.execute(
            f"UPDATE {schema.info.name} SET value = ? WHERE key = 'schema_version'",
            [str(version)],
        )
        assert changed.rowcount == 1


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE = {
    "no folder": (lambda s: shutil.rmtree(s.repo), "is not a cpplug repository"),
    "no marker": (lambda s: (s.repo / MARKER).unlink(), "is not a cpplug repository"),
    "no registry": (lambda s: (s.repo / REGISTRY).unlink(), "is missing"),
    "broken marker": (lambda s: (s.repo / MARKER).write_text("= no"), "is damaged"),
    "newer folder": (
        lambda s: rewrite(s.repo / MARKER, "format = 1", "format = 99"),
        "has format 99; this cpplug knows 1. Update cpplug.",
    ),
    "newer schema": (lambda s: set_schema(s, 99), "has schema 99; this cpplug knows"),
    "older schema": (lambda s: set_schema(s, 0), "has schema 0; this cpplug needs"),
    "other registry": (
        lambda s: (s.repo / REGISTRY).write_bytes(b"no database " * 1000),
        "is not a cpplug registry",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_repository_that_cannot_be_used(ready, damage):
    spoil, sentence = DAMAGE[damage]
    spoil(ready)
    for words in (BUILD, ("query", "exposures"), ("ingest", ready.repo.parent)):
        text = ready.refuses(9, *words)
        assert sentence in text, text
        assert str(ready.repo) in text


def test_no_repository_is_named(call):
    answer = call(*BUILD)
    assert answer.code == 2
    assert answer.said[0] == "cpplug: No repository is named."
    assert "CPPLUG_REPO" in answer.said[1]


def test_a_locked_registry(ready, monkeypatch):
    monkeypatch.setitem(Repository.open.__func__.__kwdefaults__, "timeout", 0.1)
    with contextlib.closing(sqlite3.connect(ready.repo / REGISTRY)) as other:
        other.execute("BEGIN IMMEDIATE")
        text = ready.refuses(9, *BUILD)
        assert "is locked: another process has been writing for more than 0.1 s." in text
        assert ready("query", "exposures", "--format", "ids").out.count("\n") == 26
        other.rollback()
    ready(*BUILD)


def test_init_where_a_repository_is_and_where_none_can_be(ready, tmp_path):
    assert "is a repository already" in ready.refuses(9, "init", ready.repo)
    (tmp_path / "file").write_text("")
    text = ready.refuses(9, "init", tmp_path / "file" / "below")
    assert "No repository can be made" in text


# ---- full and unwritable ---------------------------------------------------------------------
def leftovers(shell):
    return [path for path in shell.repo.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("place", ["scratch", "datasets", "plan.json", "summary.json"])
def test_a_disk_that_is_full_in_the_middle_of_a_run(ready, monkeypatch, place):
    push = files._push_to_disk

    def full(path):
        if place in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        push(path)

    monkeypatch.setattr(files, "_push_to_disk", full)
    text = ready.refuses(9, *BUILD)
    assert "could not be written: No space left on device." in text
    assert [row["status"] for row in ready.runs()] == ["failed"]
    assert leftovers(ready) == []
    before = ready.products()
    assert len(before) == (1 if place == "summary.json" else 0)
    monkeypatch.undo()
    ready(*BUILD, "--resume", "-o", "u/me/biasGen")
    (run,) = ready.runs()
    assert run["status"] == "done"
    (product,) = ready.products()
    assert Path(product["path"]).exists() and before in ([], [product])


def test_a_ledger_that_cannot_be_written_stops_the_run(ready):
    (ready.repo / "runs").write_text("in the way")
    text = ready.refuses(9, *BUILD)
    assert "ledger" in text and "cannot be written" in text
    assert ready.products() == []


@contextlib.contextmanager
def public_folder():
    """A folder that another user may enter; the one of pytest is private."""
    folder = Path(tempfile.mkdtemp(prefix="cpplug-bad-input-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def run_apart(folder, *words, within=(), **how):
    """Run one command in a process of its own, with rights and limits of its own."""
    return subprocess.run(
        [*within, sys.executable, "-m", "cpplug", "-b", "repo", *words], cwd=folder, text=True,
        capture_output=True, check=False,
        env={**os.environ, "LOGNAME": "me", "HOME": str(folder)}, **how,
    )  # fmt: skip


def mortal():
    """Return the command in front that takes from root the right to write everywhere."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to change that")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


@pytest.mark.parametrize("closed", ["all", "datasets"])
def test_a_repository_that_may_not_be_written(ready_repo, closed, call):
    within = mortal()
    with public_folder() as folder:
        repo = folder / "repo"
        shutil.copytree(ready_repo, repo)
        shut = [repo, *repo.iterdir()] if closed == "all" else [repo / closed]
        for path in shut:
            path.mkdir(exist_ok=True) if path.suffix == "" else None
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = run_apart(folder, *BUILD, within=within)
        for path in shut:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert done.returncode == 9, done.stderr
        assert "Traceback" not in done.stderr
        assert "cannot be written" in done.stderr or "could not be written" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("        ")
        again = call("-b", repo, *BUILD, "--resume")
        assert again.code == 0, again.err


@pytest.mark.parametrize("limit", [12_000, 60_000])
def test_a_limit_on_the_size_of_files(ready_repo, limit, call):
    with public_folder() as folder:
        shutil.copytree(ready_repo, folder / "repo")
        before = (folder / "repo" / REGISTRY).stat().st_size

        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = run_apart(folder, *BUILD, preexec_fn=limited)
        assert done.returncode in {7, 9}, done.stderr
        assert "Traceback" not in done.stderr and "fault in cpplug" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("cpplug: ")]
        assert len(lines) == 1 and done.stderr.splitlines()[-1].startswith("        ")
        assert (folder / "repo" / REGISTRY).stat().st_size >= before
        again = call("-b", folder / "repo", *BUILD, "--resume")
        assert again.code == 0, again.err
        assert again.out.count(" bias ") == 1


@pytest.fixture
def small_disk(ready_repo, tmp_path):
    """A disk with a repository and little space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets us make no small disk")
    try:
        shutil.copytree(ready_repo, disk / "repo")
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    done = run_apart(small_disk, *BUILD, "--no-progress")
    assert done.returncode in {7, 9}, done.stderr
    assert "Traceback" not in done.stderr and "fault in cpplug" not in done.stderr
    assert "pace" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_listing_that_goes_to_a_full_disk(ready_repo):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cpplug", "-b", ready_repo, "query", "exposures"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 9
    assert done.stderr.startswith("cpplug: No space is left on the disk that is written to.")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("words", [BUILD, ("query", "exposures")])
def test_a_disk_that_may_only_be_read(small_disk, words):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run_apart(small_disk, *words, "--no-progress")
    assert done.returncode == 9, done.stderr
    assert done.stderr.count("cannot be opened: its folder cannot be written.") == 1
