"""Alembic's migrations of the state, and how they are run."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

# What it sets up and runs is nobody's news but ours.
logging.getLogger("alembic").setLevel(logging.WARNING)

_MIGRATIONS = Path(__file__).parent


def config_of(connection: Connection) -> Config:
    """Alembic's, with our migrations, for a connection."""
    config = Config()
    # interpolated, as everything in an .ini file is
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Migrate, within the transaction that was begun on the connection; nobody else
    does so meanwhile."""
    command.upgrade(config_of(connection), "head")
