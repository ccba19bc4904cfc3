"""What a command says: text from outside never steers the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

from meshtasks.masking import masked
from meshtasks.text import printable

#: As shells count a program that a closed pipe has ended: 128 and SIGPIPE.
_EXIT_BROKEN_PIPE = 141


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or several, on standard output or standard error."""
    typer.echo(masked(printable(text)), err=err)


def run(app: typer.Typer) -> None:
    """Run a console script, on terminals of any width and encoding."""
    # A character that standard output lacks would end the command (Latin-1 has no
    # arrow); it is spelled, as standard error does.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    # py-amqp warns of each message that was on its way when a channel was closed.
    logging.getLogger("amqp").setLevel(logging.ERROR)
    command = typer.main.get_command(app)
    reflow(command)
    try:
        command()
    except SystemExit as end:
        # click has made this of a reader that has gone (`… | head -1`)
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(_EXIT_BROKEN_PIPE)
        raise


def show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    """Print the version, and end.

    Raises:
        typer.Exit: if it is wanted.
    """
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - imports e-mail

        say(f"meshtasks {version('meshtasks')}")
        raise typer.Exit


def reflow(command: Any) -> None:
    """Let help be as wide as the terminal: typer keeps the line breaks of a docstring
    and adds its own, and calls a flag's type ``<bool>``."""
    for name in ("help", "epilog"):
        paragraphs = (getattr(command, name) or "").strip().split("\n\n")
        joined = "\n\n".join(" ".join(each.split()) for each in paragraphs)
        setattr(command, name, joined or None)
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for each in getattr(command, "commands", {}).values():
        reflow(each)
