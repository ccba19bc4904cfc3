"""How a command ends that failed."""

from __future__ import annotations

from typing import Never

import typer

from meshtasks.cli.terminal import say


def fail(message: str, exit_code: int) -> Never:
    """Say why, and end the command.

    Raises:
        typer.Exit: always.
    """
    say(f"meshtasks: {message}", err=True)
    raise typer.Exit(exit_code)
