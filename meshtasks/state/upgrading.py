"""Brings the tables of a database to this version, with Alembic's migrations."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_MIGRATIONS = Path(__file__).with_name("migrations")


class NewerDatabase(Exception):
    """The database has tables of a version that this one does not know."""


def upgrade(connection: Connection, revision: str | None) -> None:
    """Migrate, within the transaction that was begun on the connection.

    Args:
        connection: to the database, which nobody else migrates meanwhile.
        revision: that the database is at; None if it is empty.

    Raises:
        NewerDatabase: this version does not know that revision.
    """
    config = Config()
    # interpolated, as everything in an .ini file is
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {
        each.revision for each in ScriptDirectory.from_config(config).walk_revisions()
    }
    if revision is not None and revision not in known:
        raise NewerDatabase(revision)
    command.upgrade(config, "head")
