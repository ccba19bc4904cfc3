"""Alembic's migrations of the state; :mod:`meshtasks.state.upgrading` runs them."""
