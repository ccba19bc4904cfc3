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
from meshtasks.cli.places import tell_place
from meshtasks.cli.terminal import fail, say, stopping_on_signals
from meshtasks.config.extras import require
from meshtasks.config.private_files import write_private
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.archive.objects import open_store
from meshtasks.observation.dead_letters import (
    WaitingDeadLetters,
    waiting_dead_letters,
)
from meshtasks.observation.facts import VIEWS, ReportFacts, facts_of


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
    script, and can be sent by mail; the file is readable by its owner alone.
    Dead letters stay where they are; without a broker the page shows why.

    Times are those of this machine's time zone, or of TZ.

    Exit codes: 0; 69 the archive cannot be reached; 73 the page cannot be
    written; 78 the configuration cannot be used, or the extra "analytics" is
    not installed.
    """
    require("analytics", "`meshtasks report`")
    # loaded here: nothing else of the console script needs DuckDB and matplotlib
    from meshtasks.cli.report_page import page  # noqa: PLC0415
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415
        opened,
        passing_over_damaged,
    )

    settings = load_settings()
    tell_place(settings.env, "archive_url", "broker_url")
    now = datetime.now(UTC)
    since = (now - timedelta(days=days)).date()
    queue = settings.read(TOPOLOGY).dead_letter_queue
    dead_letters = dead_letters_in(settings.env.amqp_url, queue)
    with closing(open_store(settings.env)) as store:

        def gather(left_out: frozenset[str]) -> ReportFacts:
            with opened(settings.env, store, VIEWS, since, left_out) as database:
                return facts_of(database, store, days, now)

        facts = passing_over_damaged(gather, partial(say, err=True))
    try:
        write_private(out, page(facts, dead_letters))
    except OSError as error:
        fail(f"{out}: {error.strerror}", os.EX_CANTCREAT)
    say(f"wrote {out}")


def dead_letters_in(url: str, queue: str) -> WaitingDeadLetters | str:
    """What the dead-letter queue holds, which is left as it is; without a broker, why
    nothing is known: the rest of the report does not need it.
    """
    try:
        with stopping_on_signals() as stopping:
            waiting = waiting_dead_letters(url, queue, stopping=stopping)
        if stopping.is_set():
            raise KeyboardInterrupt
    except (Transient, ConfigError) as error:
        return str(error)
    return waiting
