"""The tables of a registry.

A registry is one small database: instruments, exposures, raw frames, collections, products, the
validity ranges of certified products with the journal of how they came to be, and what runs and
verifications found. The same tables serve SQLite and PostgreSQL. Open ends of validity ranges are
stored as the smallest and largest 64-bit integer, so that comparing needs no special case.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from cpplug.store.records import MAX_TIME, MIN_TIME

SCHEMA_VERSION = 1
"""Rises with every change of the tables; a registry of another version is refused."""

NEVER, FOREVER = MIN_TIME, MAX_TIME
"""Stored for an open begin and an open end."""

metadata = MetaData()

# SQLite gives out row numbers only for a column declared INTEGER PRIMARY KEY.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")

info = Table(
    "repository_info",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

instrument = Table("instrument", metadata, Column("name", Text, primary_key=True))

detector = Table(
    "detector",
    metadata,
    Column("instrument", Text, ForeignKey("instrument.name"), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("serial", Text, nullable=False),
)

exposure = Table(
    "exposure",
    metadata,
    Column("instrument", Text, ForeignKey("instrument.name"), primary_key=True),
    Column("exposure", BigInteger, primary_key=True, autoincrement=False),
    Column("obs_id", Text, nullable=False),
    Column("day_obs", Integer, nullable=False),
    Column("seq_num", Integer, nullable=False),
    Column("observation_type", Text, nullable=False),
    Column("exposure_time", Double, nullable=False),
    Column("dark_time", Double, nullable=False),
    Column("begin", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("physical_filter", Text, nullable=False),
    Column("target_name", Text, nullable=False),
    Column("science_program", Text, nullable=False),
    Column("observation_reason", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("detector_serial", Text, nullable=False),
    Column("temperature", Double),
    Column("serial_binning", Integer, nullable=False),
    Column("parallel_binning", Integer, nullable=False),
    Index("exposure_by_day", "instrument", "day_obs"),
    Index("exposure_by_begin", "instrument", "begin"),
)

collection = Table(
    "collection",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("doc", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

raw = Table(
    "raw",
    metadata,
    Column("instrument", Text, primary_key=True),
    Column("exposure", BigInteger, primary_key=True, autoincrement=False),
    Column("detector", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("run_id", RowNumber, ForeignKey("collection.id"), nullable=False, index=True),
)

chain = Table(
    "chain",
    metadata,
    Column("parent_id", RowNumber, ForeignKey("collection.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("child_id", RowNumber, ForeignKey("collection.id"), nullable=False, index=True),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", Text, primary_key=True),
    Column("dataset_type", Text, nullable=False),
    Column("run_id", RowNumber, ForeignKey("collection.id"), nullable=False),
    Column("instrument", Text, ForeignKey("instrument.name"), nullable=False),
    Column("detector", Integer, nullable=False),
    Column("physical_filter", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("is_calibration", Boolean, nullable=False),
    Column("provenance", Text, nullable=False),
    UniqueConstraint("run_id", "dataset_type", "instrument", "detector", "physical_filter"),
)


def _key_columns() -> list[Column[object]]:
    """Return the columns that make a link unique, copied from the dataset for that purpose."""
    return [
        Column("dataset_type", Text, nullable=False),
        Column("instrument", Text, nullable=False),
        Column("detector", Integer, nullable=False),
        Column("physical_filter", Text, nullable=False),
    ]


tag = Table(
    "tag",
    metadata,
    Column("collection_id", RowNumber, ForeignKey("collection.id"), primary_key=True),
    Column("dataset_id", Text, ForeignKey("dataset.id"), primary_key=True, index=True),
    *_key_columns(),
    UniqueConstraint("collection_id", "dataset_type", "instrument", "detector", "physical_filter"),
)

validity = Table(
    "validity",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("collection_id", RowNumber, ForeignKey("collection.id"), nullable=False),
    Column("dataset_id", Text, ForeignKey("dataset.id"), nullable=False, index=True),
    *_key_columns(),
    Column("begin", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    UniqueConstraint(
        "collection_id", "dataset_type", "instrument", "detector", "physical_filter", "begin"
    ),
)

journal = Table(
    "journal",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    # Names, not links: the journal outlives what it speaks of.
    Column("collection", Text, nullable=False, index=True),
    Column("dataset_type", Text, nullable=False),
    Column("begin", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("evidence", Text, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("run", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("calibration", Text, nullable=False),
    Column("instrument", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("finished", BigInteger),
    Column("command", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("summary", Text, nullable=False),
)

check = Table(
    "check_result",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("verify_run", Text, nullable=False, index=True),
    Column("product_sha256", Text, nullable=False, index=True),
    Column("test", Text, nullable=False),
    Column("detector", Text, nullable=False),
    Column("amplifier", Text, nullable=False),
    Column("exposure", BigInteger),
    Column("membership", Text, nullable=False),
    Column("value", Double),
    Column("error", Double),
    Column("unit", Text, nullable=False),
    Column("expected", Double),
    Column("deviation", Double),
    Column("tolerance", Double),
    Column("goal", Double),
    Column("z", Double),
    Column("n_good", BigInteger),
    Column("verdict", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row", Text, nullable=False),
)

verification = Table(
    "verification",
    metadata,
    Column("verify_run", Text, primary_key=True),
    Column("product_sha256", Text, primary_key=True, index=True),
    Column("dataset", Text, primary_key=True),
    Column("dataset_type", Text, nullable=False),
    Column("instrument", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("profile_sha256", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("counts", Text, nullable=False),
    Column("n_independent", Integer, nullable=False),
    Column("finished", BigInteger, nullable=False),
    Column("evidence_sha256", Text, nullable=False),
    Column("details", Text, nullable=False),
)

waiver = Table(
    "waiver",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("test", Text, nullable=False),
    Column("dataset_type", Text, nullable=False),
    Column("instrument", Text, nullable=False),
    Column("detector", Text, nullable=False),
    Column("amplifier", Text, nullable=False),
    Column("ticket", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)
