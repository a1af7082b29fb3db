"""Making and opening repositories, and what is said when that is not possible."""

import os
import sqlite3
import stat
import threading

import pytest
import sqlalchemy as sa

from cpplug.api.errors import RepositoryError, UsageError
from cpplug.store import Repository
from cpplug.store.records import DetectorRow
from cpplug.store.repository import MARKER, REGISTRY
from cpplug.store.schema import SCHEMA_VERSION


def set_version(repo, version):
    with repo._db.write() as connection:
        connection.execute(
            sa.text("UPDATE repository_info SET value = :v WHERE key = 'schema_version'"),
            {"v": str(version)},
        )


def test_reopen(repo, facts):
    repo.ingest([facts.raw(1)], "raw/all")
    with Repository.open(repo.root) as again:
        assert again.uuid == repo.uuid
        assert again.root == repo.root
        assert again.url == repo.url
        assert again.count_exposures() == 1


def test_created_once(repo, tmp_path):
    with pytest.raises(RepositoryError, match="is a repository already"):
        Repository.create(repo.root)
    if repo._db.kind == "postgresql":
        url = repo._db.url.render_as_string(hide_password=False)
        with pytest.raises(RepositoryError, match="There is a registry at"):
            Repository.create(tmp_path / "second", url)
        assert not (tmp_path / "second" / MARKER).exists()


def test_newer_and_older_schemas_are_refused(repo):
    set_version(repo, SCHEMA_VERSION + 1)
    with pytest.raises(RepositoryError, match="has schema 2; this cpplug knows 1") as caught:
        Repository.open(repo.root)
    assert caught.value.next_step == "Update cpplug."
    assert caught.value.exit_code == 9
    set_version(repo, SCHEMA_VERSION - 1)
    with pytest.raises(RepositoryError, match="this cpplug needs 1"):
        Repository.open(repo.root)


def test_registry_of_another_repository_is_refused(repo):
    marker = repo.root / MARKER
    marker.write_text(marker.read_text().replace(repo.uuid, "0" * 36))
    with pytest.raises(RepositoryError, match="belongs to another repository"):
        Repository.open(repo.root)


def test_locked_registry(repo):
    """Whoever waits too long for another writer is told so, in one sentence."""
    with Repository.open(repo.root, timeout=0.2) as impatient:
        with repo._db.write():
            with pytest.raises(RepositoryError, match="is locked") as caught:
                impatient.make_run("run")
            assert caught.value.exit_code == 9
            assert "0.2 s" in caught.value.message
            assert impatient.collections() == []  # reading goes on
        impatient.make_run("run")


def test_an_error_undoes_the_whole_transaction(repo):
    with pytest.raises(ZeroDivisionError), repo._db.write() as connection:
        connection.execute(sa.text("INSERT INTO instrument (name) VALUES ('X')"))
        raise ZeroDivisionError
    assert "X" not in repo.instruments()


def test_threads_share_a_repository(repo, facts):
    errors = []

    def work(start):
        try:
            for number in range(start, start + 5):
                repo.ingest([facts.raw(number)], "raw/all")
                repo.exposures()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(5 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert repo.count_exposures() == 15


def test_not_a_repository(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RepositoryError, match="is not a cpplug repository") as caught:
            Repository.open(place)
        assert "cpplug init" in caught.value.next_step
    (tmp_path / MARKER).write_text("format = [")
    with pytest.raises(RepositoryError, match="is damaged"):
        Repository.open(tmp_path)
    (tmp_path / MARKER).write_text("format = 2\nuuid = 'x'\n")
    with pytest.raises(RepositoryError, match="has format 2; this cpplug knows 1"):
        Repository.open(tmp_path)
    (tmp_path / MARKER).write_text("format = 1\nuuid = 'x'\n")
    with pytest.raises(RepositoryError, match="is missing"):
        Repository.open(tmp_path)
    (tmp_path / REGISTRY).write_bytes(b"not a database, certainly " * 50)
    with pytest.raises(RepositoryError, match="is not a cpplug registry"):
        Repository.open(tmp_path)
    (tmp_path / REGISTRY).write_bytes(b"")
    with pytest.raises(RepositoryError, match="holds no cpplug registry"):
        Repository.open(tmp_path)


def test_creating_leaves_only_what_belongs_there(tmp_path):
    with Repository.create(tmp_path / "a/b") as repo:
        assert sorted(p.name for p in repo.root.iterdir() if "-" not in p.name) == [REGISTRY]
        assert (repo.root / MARKER).exists()
        assert stat.S_IMODE((repo.root / REGISTRY).stat().st_mode) & 0o400
    left = sorted(path.name for path in (tmp_path / "a/b").iterdir())
    assert left == sorted([MARKER, REGISTRY])
    with sqlite3.connect(tmp_path / "a/b" / REGISTRY) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    (tmp_path / "a/b" / MARKER).unlink()
    with pytest.raises(RepositoryError, match="holds a registry but no"):
        Repository.create(tmp_path / "a/b")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryError, match="No repository can be made"):
        Repository.create(tmp_path / "file")
    with pytest.raises(RepositoryError, match="is not a cpplug repository"):
        Repository.open(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RepositoryError, match="No repository can be made"):
        Repository.create(tmp_path / "repo")


def test_sqlite_elsewhere_by_url(tmp_path):
    url = f"sqlite:///{tmp_path}/fast disk/reg.db"
    (tmp_path / "fast disk").mkdir()
    with Repository.create(tmp_path / "repo", url) as repo:
        repo.register_instrument("LATISS", [DetectorRow(0, "S00")])
    assert (tmp_path / "fast disk/reg.db").exists()
    assert not (tmp_path / "repo" / REGISTRY).exists()
    with Repository.open(tmp_path / "repo") as repo:
        assert repo.instruments() == ["LATISS"]


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("nonsense", UsageError, "is not a database URL"),
        ("mysql://host/db", UsageError, "keeps no registry in mysql"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", RepositoryError, "cannot be reached"),
    ],
)
def test_urls_that_do_not_work(tmp_path, url, error, words):
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(error, match=words) as caught:
        Repository.create(tmp_path / "repo", url)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "repo" / MARKER).exists()
