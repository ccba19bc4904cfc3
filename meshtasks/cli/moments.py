"""Moments as people type them."""

from __future__ import annotations

from datetime import datetime

import typer

from meshtasks.config.durations import seconds_of


def moment_of(text: str, now: float, option: str) -> float:
    """Epoch seconds of ``2026-11-20``, ``2026-11-20T13:00``, ``…+01:00``, or of ``7d``
    (so long ago). Without a zone it is local time.

    Raises:
        typer.BadParameter: it is none of these.
    """
    try:
        return now - seconds_of(text)
    except ValueError:
        pass  # not a span, then
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        message = (
            f"expected a date and time such as 2026-11-20T13:00, a date, or a span of "
            f"time such as 7d, got {text!r}"
        )
        raise typer.BadParameter(message, param_hint=option) from error
