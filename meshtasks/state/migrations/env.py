"""Alembic runs this module: it migrates the tables on the configured connection."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
