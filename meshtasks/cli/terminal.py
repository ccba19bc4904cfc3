"""What a command says: text from outside never steers the terminal."""

from __future__ import annotations

import sys

import typer

from meshtasks.domain.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or several, on standard output or standard error."""
    typer.echo(printable(text), err=err)


def tolerate_encodings() -> None:
    """Let characters that standard output's encoding lacks be spelled, as they are on
    standard error; in a Latin-1 terminal “…” would end a command."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
