"""The help of commands: those of the console script, and the producers."""

from __future__ import annotations

from typing import Any

import typer


def reflow(command: Any) -> None:
    """Fit the help of a command and its subcommands to the width of the terminal.

    typer keeps the line breaks of docstrings and adds its own, and shows the type
    ``<bool>`` for flags; both are removed.
    """
    for name in ("help", "epilog"):
        paragraphs = (getattr(command, name) or "").strip().split("\n\n")
        joined = "\n\n".join(" ".join(each.split()) for each in paragraphs)
        setattr(command, name, joined or None)
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for each in getattr(command, "commands", {}).values():
        reflow(each)
