"""Migrations of the state with Alembic."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

# Alembic logs every step at the level INFO, which is of no interest to users.
logging.getLogger("alembic").setLevel(logging.WARNING)

_MIGRATIONS = Path(__file__).parent


def config_of(connection: Connection) -> Config:
    """The configuration of Alembic for a connection."""
    config = Config()
    # Values are interpolated as in an .ini file, so % is doubled.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Migrate the tables, within the transaction of the connection.

    The caller makes sure that no other process does so at the same time.
    """
    command.upgrade(config_of(connection), "head")
