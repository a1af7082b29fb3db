"""Repositories for the tests of the store: each test runs on SQLite and, where there is a server,
on PostgreSQL in a schema of its own."""

import os
import uuid
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from cpplug.api.instrument import ExposureInfo
from cpplug.api.times import NS_PER_DAY, NS_PER_SECOND, parse_time
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRecord, DetectorRow, RawRecord

SERVER = os.environ.get("CPPLUG_TEST_POSTGRES", "")


@contextmanager
def _schema():
    """Yield the URL of a fresh schema on the test server."""
    name = f"cpplug_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        joint = "&" if "?" in SERVER else "?"
        yield f"{SERVER}{joint}options={quote(f'-csearch_path={name}')}"
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request):
    if request.param == "postgresql" and not SERVER:
        pytest.skip("CPPLUG_TEST_POSTGRES names no PostgreSQL server")
    return request.param


@contextmanager
def _repository(backend, folder, **options):
    if backend == "sqlite":
        with Repository.create(folder / "repo", **options) as repo:
            yield repo
        return
    with _schema() as url, Repository.create(folder / "repo", url, **options) as repo:
        yield repo


@pytest.fixture
def repo(backend, tmp_path):
    """An empty repository with a camera of two instruments."""
    with _repository(backend, tmp_path, timeout=10) as repo:
        repo.register_instrument("LATISS", [DetectorRow(0, "RXX_S00", "ITL-3800C-068")])
        repo.register_instrument("Mosaic", [DetectorRow(i, f"S{i:02d}") for i in range(4)])
        yield repo


@pytest.fixture(scope="module")
def shelf(backend, tmp_path_factory):
    """A repository with exposures that the tests of a module only read."""
    with _repository(backend, tmp_path_factory.mktemp("shelf")) as repo:
        repo.register_instrument("LATISS", [DetectorRow(0, "RXX_S00")])
        repo.register_instrument("Mosaic", [DetectorRow(i, f"S{i:02d}") for i in range(4)])
        raws = [Facts.raw(number) for number in range(400)]
        for number in range(6):
            info = Facts.info(number, instrument="Mosaic", exposure=number + 1, target_name="it's")
            raws.append(Facts.raw_of(info, detectors=tuple(range(number % 4 + 1))))
        assert {o.status for o in repo.ingest(raws, "raw/all")} == {"ingested"}
        yield repo


class Facts:
    """Makes records: nights of 20 exposures from 2021-01-20 on, one a minute."""

    DAY = NS_PER_DAY
    T0 = parse_time("2021-01-20")

    @staticmethod
    def info(number=0, **changes):
        night, seq = divmod(number, 20)
        day = 20210120 + night if night < 12 else 20210189 + night
        kind = ("bias", "dark", "flat", "science")[number % 4]
        begin = Facts.T0 + night * NS_PER_DAY + (64_800 + seq * 60) * NS_PER_SECOND
        seconds = 0.0 if kind == "bias" else 30.0
        facts = {
            "instrument": "LATISS", "exposure": day * 100_000 + seq,
            "obs_id": f"AT_O_{day}_{seq:06d}", "day_obs": day, "seq_num": seq,
            "observation_type": kind, "exposure_time": seconds, "dark_time": seconds + 0.05,
            "begin": begin, "end": begin + round(seconds * NS_PER_SECOND),
            "physical_filter": "RG610~empty" if seq % 2 else "empty~empty",
            "target_name": "Park position" if kind == "bias" else "NGC 4755",
            "group": f"g{seq}", "temperature": None if kind == "dark" else -93.5,
            "science_program": "calib", "observation_reason": "daily",
        }  # fmt: skip
        return ExposureInfo(**(facts | changes))

    @staticmethod
    def raw_of(info, detectors=(0,), sha="", path=""):
        sha = sha or uuid.uuid5(uuid.NAMESPACE_OID, f"{info.instrument}{info.exposure}").hex * 2
        return RawRecord(
            info=info, detectors=detectors, path=path or f"/data/{info.obs_id}.fits", sha256=sha,
            size=2880,
        )  # fmt: skip

    @staticmethod
    def raw(number=0, **changes):
        return Facts.raw_of(Facts.info(number, **changes))

    @staticmethod
    def dataset(run, detector=0, dataset_type="bias", instrument="Mosaic", **changes):
        identity = str(uuid.uuid4())
        physical_filter = changes.pop("physical_filter", "")
        facts = {
            "id": identity, "dataset_type": dataset_type, "run": run,
            "data_id": DataId(instrument, detector, physical_filter),
            "path": f"datasets/{run}/{dataset_type}_{detector}_{identity[:8]}.fits",
            "sha256": uuid.uuid4().hex * 2, "size": 5760, "created": Facts.T0,
            "is_calibration": True, "provenance": {"inputs": [{"exposure": 7, "sha256": "ab"}]},
        }  # fmt: skip
        return DatasetRecord(**(facts | changes))

    @staticmethod
    def build(repo, run, *, detectors=(0, 1), types=("bias",), filters=("",)):
        """Make a RUN with one product per detector, type and filter, and return the records."""
        repo.make_run(run)
        records = [
            Facts.dataset(run, detector, dataset_type, physical_filter=name)
            for dataset_type in types
            for name in filters
            for detector in detectors
        ]
        repo.add_datasets(records)
        return records

    @staticmethod
    def certify(repo, inputs, output, begin, end, dataset_type="bias", **options):
        """Certify from day to day, counted from 2021-01-20; None is open."""
        options = {"who": "tester", "command": "cpplug certify ..."} | options
        limits = [None if day is None else Facts.T0 + day * NS_PER_DAY for day in (begin, end)]
        return repo.certify(inputs, output, dataset_type, *limits, **options)

    @staticmethod
    def ranges(repo, collection, detector=0, **options):
        """Return the ranges of a detector as days from 2021-01-20."""
        return [
            tuple(None if t is None else (t - Facts.T0) // NS_PER_DAY for t in (r.begin, r.end))
            for r in repo.validity([collection], detector=detector, **options)
        ]


@pytest.fixture
def facts():
    return Facts
