"""``meshtasks report``: the house on one page."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import fail, say
from meshtasks.config.settings import load_settings
from meshtasks.flows.analytics import require_extra
from meshtasks.flows.archive.objects import open_store


def report(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Page to write.")
    ] = Path("report.html"),
    days: Annotated[
        int, typer.Option(min=1, max=3_650, metavar="N", help="The last N days.")
    ] = 7,
) -> None:
    """Write one HTML page about the house and its mesh.

    Temperature and humidity of every room, the alerts' timeline, dead letters
    by reason, and how the archive grows. The page needs no network and no
    script, and can be sent by mail. Dead letters are looked at and left where
    they are; without a broker the page says so.

    Times are those of this machine's time zone, or of TZ.

    Exit codes: 0; 69 the archive cannot be reached; 73 the page cannot be
    written; 78 the configuration cannot be used, or the extra "analytics" is
    not installed.
    """
    require_extra()
    # loaded here: nothing else of the console script needs DuckDB
    from meshtasks.cli.reporting import gather  # noqa: PLC0415
    from meshtasks.cli.reporting.dead_letters import dead_letters_in  # noqa: PLC0415
    from meshtasks.cli.reporting.facts import Facts  # noqa: PLC0415
    from meshtasks.cli.reporting.page import page  # noqa: PLC0415
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415
        opened,
        passing_over_damaged,
    )

    settings = load_settings()
    now = datetime.now(UTC)
    since = (now - timedelta(days=days)).date()
    with closing(open_store(settings.env)) as store:

        def look(left_out: frozenset[str]) -> Facts:
            with opened(settings.env, store, gather.VIEWS, since, left_out) as database:
                period = gather.period_of(database, days, now)
                return Facts(
                    period,
                    gather.readings_in(database, period),
                    gather.rooms_of(database, period),
                    gather.alerts_of(database, period),
                    gather.archive_of(store, period),
                    dead_letters_in(
                        settings.env.amqp_url,
                        settings.read(TOPOLOGY).dead_letter_queue,
                    ),
                )

        facts = passing_over_damaged(look, partial(say, err=True))
    try:
        out.write_text(page(facts), encoding="utf-8")
    except OSError as error:
        fail(f"{out}: {error.strerror}", os.EX_CANTCREAT)
    say(f"wrote {out}")
