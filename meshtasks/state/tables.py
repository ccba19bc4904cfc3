"""The tables of the state, the same in SQLite and PostgreSQL, and statements that
insert into any of them.

Times are epoch seconds. Structured values are JSON text that only their store reads.
Text from outside is passed through :func:`clean`, and keys through :func:`storable`.

Every change here also needs a migration (``meshtasks/state/migrations``) and a new
:data:`REVISION`: existing databases are migrated, new ones are created from these
tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)

#: Revision of these tables: number of the last migration. Numbers increase.
REVISION = "0002"

#: Longer keys are cut, since an index of PostgreSQL accepts 2,700 bytes.
_KEY_CHARS = 400
#: Characters that are kept of a key that is cut.
_KEPT_CHARS = 200

METADATA = MetaData()


def make_tables(connection: Connection) -> None:
    """Create all tables in an empty database, as the migrations would."""
    METADATA.create_all(connection, checkfirst=False)
    # The table of Alembic.
    column = Column("version_num", String(32), nullable=False)
    key = PrimaryKeyConstraint("version_num", name="alembic_version_pkc")
    version = Table("alembic_version", MetaData(), column, key)
    version.create(connection, checkfirst=False)
    connection.execute(version.insert().values(version_num=REVISION))


def clean(text: str) -> str:
    """Replace characters that a database cannot store: NUL and lone surrogates."""
    if text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def storable(key: str) -> str:
    """Convert a text to a key that both databases can index.

    A long key is cut, and gets a digest that keeps it unique.
    """
    key = clean(key)
    if len(key) <= _KEY_CHARS:
        return key
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{key[:_KEPT_CHARS]}#{digest}"


def storables(keys: Iterable[str]) -> dict[str, str]:
    """Stored keys → original keys; fast if no key needs a change."""
    keys = list(keys)
    joined = "".join(keys)
    is_clean = "\0" not in joined if joined.isascii() else joined.isprintable()
    if is_clean and max(map(len, keys), default=0) <= _KEY_CHARS:
        return dict(zip(keys, keys, strict=True))
    return {storable(key): key for key in keys}


def _table(name: str, *parts: Any) -> Table:
    """Define a table; SQLite stores its rows in the order of the primary key."""
    return Table(name, METADATA, *parts, sqlite_with_rowid=False)


def _key(name: str, *parts: Any) -> Column[str]:
    return Column(name, Text, *parts, primary_key=True)


def _text(name: str, *, required: bool = True) -> Column[str]:
    return Column(name, Text, nullable=not required)


def _time(name: str, *, required: bool = True) -> Column[float]:
    return Column(name, Double, nullable=not required)


#: Imported files of earlier versions, by the token that was written into the file.
IMPORTS = _table("imports", _key("token"), _text("file"), _time("at"))
#: Rows that probes write.
PROBES = _table("probes", _key("sink"), _time("at"))

#: States of the rules by series. An empty state means that the row was only locked.
RULE_STATES = _table("rule_states", _key("key"), _text("state"), _time("updated_at"))

#: Webhooks that have accepted a record that is not done yet.
WEBHOOK_CALLS = _table(
    "webhook_calls", _key("record"), _key("workflow"), _time("at"),
    Index("webhook_calls_age", "at"),
)  # fmt: skip

#: Pending objects: ids of their records as a JSON array, and the PostgreSQL session
#: that stores them; the owner is null if no worker does.
ARCHIVE_PENDING = _table(
    "archive_pending", _key("name"), _text("ids"),
    Column("owner", Integer), Column("server", Text),
    Column("claimed_at", Double, nullable=False, server_default="0"),
)  # fmt: skip
#: Ids of the records of pending objects, each in one object.
ARCHIVE_CLAIMS = _table("archive_claims", _key("id"))
ARCHIVE_DAMAGED = _table("archive_damaged", _key("name"), _text("fault"))
#: Ids of archived records: of the current and of the previous generation.
ARCHIVE_IDS = (
    _table("archive_ids_0", _key("id")),
    _table("archive_ids_1", _key("id")),
)
#: A single row: table for new ids, beginning of its generation, number of its ids.
ARCHIVE_GENERATION = _table(
    "archive_generation",
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("current", SmallInteger, nullable=False),
    _time("started_at"),
    Column("ids", BigInteger, nullable=False),
)

ALERTS = _table(
    "alerts", _key("fingerprint"), _text("state"),
    Column("firing", Boolean, nullable=False),
    _time("received_at"), _time("ends_at", required=False),
    Index("alerts_firing", "firing", "received_at"),
)  # fmt: skip
ALERT_GROUPS = _table(
    "alert_groups", _key("id"), _text("state"),
    Column("tag", Text, nullable=False, unique=True),
    _time("wake_at", required=False),
    Column("urgency", Integer, nullable=False, server_default="0"),
    Column("claimed_until", Double, nullable=False, server_default="0"),
    Index("alert_groups_wake", "wake_at"),
)  # fmt: skip
ALERT_MEMBERS = _table(
    "alert_members",
    _key("group_id", ForeignKey("alert_groups.id", ondelete="CASCADE")),
    _key("fingerprint", ForeignKey("alerts.fingerprint", ondelete="CASCADE")),
    _text("notified"),
    Column("pending", Boolean, nullable=False, server_default=false()),
    Index("alert_members_alert", "fingerprint"),
)
ALERTS_SEEN = _table(
    "alerts_seen", _key("id"), _time("at"), Index("alerts_seen_age", "at")
)
SILENCES = _table("silences", _key("id"), _text("state"), _time("ends_at"))
ALERT_EVENTS = Table(
    "alert_events",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    _text("state"),
)
ALERT_NOTES = _table("alert_notes", _key("name"), _text("value"))

GATEWAY_TASKS = _table(
    "gateway_tasks", _key("id"), _text("name", required=False),
    _text("client", required=False), _text("state"), _text("result", required=False),
    _text("error", required=False), _time("submitted_at", required=False),
    _time("updated_at"), Index("gateway_tasks_age", "updated_at"),
)  # fmt: skip
GATEWAY_REQUESTS = _table(
    "gateway_requests", _key("client"), _key("key"), _text("digest"), _text("id"),
    _time("at"), _text("response", required=False),
    Index("gateway_requests_age", "at"),
)  # fmt: skip

#: Sensors, and routing keys of records that are not readings.
SENSORS = _table(
    "sensors", _key("routing_key"), _key("sensor_id"), _text("kind"),
    _text("location"), _text("unit"), Column("value", Double), _time("time"),
    _time("first_at"), _time("received_at"),
    Column("number", BigInteger, nullable=False), _time("usual_seconds"),
    _time("spread_seconds"), _time("ahead_seconds"),
    Index("sensors_age", "received_at"),
)  # fmt: skip
SENSOR_GAPS = _table(
    "sensor_gaps", _key("routing_key"), _key("sensor_id"),
    Column("begins_at", Double, primary_key=True), _time("ends_at"),
    Index("sensor_gaps_age", "ends_at"),
)  # fmt: skip
SENSOR_INCIDENTS = _table(
    "sensor_incidents", _key("routing_key"), _key("sensor_id"), _key("cause"),
    Column("begins_at", Double, primary_key=True), _time("ends_at"),
    Column("number", BigInteger, nullable=False), _text("reason"), _text("example"),
    _time("ahead_low"), _time("ahead_high"), _time("first_time", required=False),
    _time("last_time", required=False), Index("sensor_incidents_age", "ends_at"),
)  # fmt: skip
#: Times at which sinks and the broker were unavailable, and workers were running.
SPANS = _table(
    "spans", _key("kind"), _key("name"), _key("seen_by"),
    Column("begins_at", Double, primary_key=True), _time("ends_at", required=False),
    _time("heard_at"), _text("reason"), Index("spans_age", "heard_at"),
)  # fmt: skip
#: Outcomes of the records of each queue, per quarter of an hour.
COUNTS = _table(
    "counts", Column("bucket", Double, primary_key=True), _key("queue"),
    Column("done", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("aside", BigInteger, nullable=False),
)  # fmt: skip


def put(connection: Connection, table: Table) -> Any:
    """An INSERT of all columns that replaces the row with the same primary key."""
    return _put(connection.dialect.name, table)


@lru_cache
def _put(dialect_name: str, table: Table) -> Any:
    statement = insert_of(dialect_name, table)
    values = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key
    }
    return statement.on_conflict_do_update(
        index_elements=table.primary_key, set_=values
    )


def insert(connection: Connection, table: Table) -> Any:
    """An INSERT that can have ``on_conflict_do_nothing`` or ``…_do_update``."""
    return insert_of(connection.dialect.name, table)


def insert_of(dialect_name: str, table: Table) -> Any:
    """:func:`insert` for the databases of a dialect."""
    # Importing both dialects would take 2 MB more in each process.
    dialect: Any = import_module(f"sqlalchemy.dialects.{dialect_name}")
    return dialect.insert(table)
