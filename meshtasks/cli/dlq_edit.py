"""Editing the bodies of dead letters before they are given back."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click
import typer
from pydantic_core import from_json

from meshtasks.cli.dlq_choice import Found
from meshtasks.cli.dlq_view import body_text
from meshtasks.cli.terminal import fail, say


def edited_bodies(found: Sequence[Found]) -> dict[str, bytes]:
    """Have every body edited, one after the other; by id, what became of them.

    Raises:
        typer.Exit: there is no editor, or a body was left empty or no JSON.
    """
    return {each.letter.id: _edited(each) for each in found}


def _edited(found: Found) -> bytes:
    text = body_text(found.delivery.body)
    while True:
        try:
            text = click.edit(text, extension=".json", require_save=False) or ""
        except click.ClickException as error:
            fail(f"{error.format_message()} (set EDITOR)", os.EX_USAGE)
        if not text.strip():
            fail("the body was left empty; nothing was replayed", os.EX_DATAERR)
        try:
            from_json(text, allow_inf_nan=False)
        except ValueError as error:
            say(f"not JSON: {error}", err=True)
            if not typer.confirm("Edit it again?", default=True, err=True):
                fail("nothing was replayed", os.EX_DATAERR)
        else:
            return text.strip().encode()
