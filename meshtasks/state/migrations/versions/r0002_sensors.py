"""Tables of sensors, outages and outcomes of records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "sensors",
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("sensor_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("usual_seconds", sa.Double(), nullable=False),
        sa.Column("spread_seconds", sa.Double(), nullable=False),
        sa.Column("ahead_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("routing_key", "sensor_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("sensors_age", "sensors", ["received_at"], unique=False)
    op.create_table(
        "sensor_gaps",
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("sensor_id", sa.Text(), nullable=False),
        sa.Column("begins_at", sa.Double(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("routing_key", "sensor_id", "begins_at"),
        sqlite_with_rowid=False,
    )
    op.create_index("sensor_gaps_age", "sensor_gaps", ["ends_at"], unique=False)
    op.create_table(
        "sensor_incidents",
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("sensor_id", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("begins_at", sa.Double(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("example", sa.Text(), nullable=False),
        sa.Column("ahead_low", sa.Double(), nullable=False),
        sa.Column("ahead_high", sa.Double(), nullable=False),
        sa.Column("first_time", sa.Double(), nullable=True),
        sa.Column("last_time", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("routing_key", "sensor_id", "cause", "begins_at"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "sensor_incidents_age", "sensor_incidents", ["ends_at"], unique=False
    )
    op.create_table(
        "spans",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_by", sa.Text(), nullable=False),
        sa.Column("begins_at", sa.Double(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=True),
        sa.Column("heard_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "seen_by", "begins_at"),
        sqlite_with_rowid=False,
    )
    op.create_index("spans_age", "spans", ["heard_at"], unique=False)
    op.create_table(
        "counts",
        sa.Column("bucket", sa.Double(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.Column("aside", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "queue"),
        sqlite_with_rowid=False,
    )
