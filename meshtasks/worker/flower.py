"""The command ``flower`` of Celery's program, also where Flower is not installed.

Both packages announce it (entry point group ``celery.commands``). Celery itself would
only say that there is no such command.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from meshtasks.config.extras import installed, require
from meshtasks.errors import ConfigError


@click.command(
    "flower",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    hidden=True,
)
def _missing() -> None:
    try:
        require("flower", "`celery flower`")
    except ConfigError as error:
        click.echo(f"meshtasks: {error}", err=True)
        sys.exit(error.exit_code)


flower = import_module("flower.command").flower if installed("flower") else _missing
