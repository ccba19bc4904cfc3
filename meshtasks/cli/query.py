"""``meshtasks query``: query the dataset and the archive in SQL."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from meshtasks.cli.terminal import EXIT_INTERRUPTED, fail, say, tell_place
from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.flows.archive.objects import open_store
from meshtasks.observation.query import since

if TYPE_CHECKING:
    from meshtasks.observation.query_result import Result

_PLOTS = (".png", ".html", ".svg")

EPILOG = """
Examples:

meshtasks query "SELECT location, avg(value), max(time) FROM readings
  WHERE kind = 'temperature' GROUP BY location"

meshtasks query --days 1 --plot day.html "SELECT location, avg(value),
  time_bucket(INTERVAL '10 minutes', time) AS t FROM readings
  WHERE kind = 'humidity' GROUP BY ALL"

meshtasks query --csv "SELECT time, tags['host'] AS host, value
  FROM metrics WHERE name = 'cpu' AND field = 'used_percent'" > cpu.csv

meshtasks query --json "SELECT time, record->>'$.title' AS title
  FROM events WHERE domain = 'alerts' ORDER BY time DESC LIMIT 10"
"""


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Query.")],
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array of objects.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a chart to FILE (.png, .html or .svg). The x axis is the "
            "column of times, or else the first column. Columns of numbers are "
            "the lines; a column of text names them.",
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Read only the last N days (UTC). From an archive in S3, only their "
            "files are fetched.",
        ),
    ] = None,
) -> None:
    """Query archived records in SQL (DuckDB).

    The views are readings (in canonical units), metrics (one row per field), events
    (all other records, with their JSON) and archive (every record as published). A
    query can read nothing else, and can write nothing. The views contain what
    config/archive.yaml selects, up to the last archived batch; "DESCRIBE readings"
    lists the columns. Times are in the time zone of this machine, or TZ; the column
    date is the UTC date.

    Exit codes: 0; 65 the query failed; 69 the archive cannot be reached; 73 the chart
    cannot be written; 78 bad configuration, or the extra "analytics" is not installed.
    """
    if as_csv + as_json + (plot is not None) > 1:
        message = "choose one of them"
        raise typer.BadParameter(message, param_hint="--csv, --json, --plot")
    if plot is not None and plot.suffix.lower() not in _PLOTS:
        message = f"{plot} should end in {', '.join(_PLOTS)}"
        raise typer.BadParameter(message, param_hint="--plot")
    require("analytics", "`meshtasks query`")
    _run(sql, since(days), _shown(sql, as_csv=as_csv, as_json=as_json, plot=plot))


def _shown(
    sql: str, *, as_csv: bool, as_json: bool, plot: Path | None
) -> Callable[[Result], None]:
    """The function that writes a result in the form that the options select."""
    from meshtasks.observation import query_result as result  # noqa: PLC0415 - DuckDB

    if plot is not None:
        return lambda found: _plot(found, plot, sql)
    if as_csv or as_json:
        return partial(_write, write=result.write_csv if as_csv else result.write_json)
    return lambda found: result.print_table(found, result.table_console(sys.stdout))


def _run(sql: str, since: date | None, show: Callable[[Result], None]) -> None:
    # Imported here, because only few commands need DuckDB.
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415
        QueryFailed,
        check_reads,
        opened,
        passing_over_damaged,
    )
    from meshtasks.observation.query_result import Result, translated  # noqa: PLC0415

    env = load_settings().env
    tell_place(env, "archive_url")
    with closing(open_store(env)) as store:

        def run(left_out: frozenset[str]) -> None:
            with opened(env, store, sql, since, left_out) as database:

                def answer() -> None:
                    with translated():
                        found = Result(database.sql(sql))
                    show(found)

                _interruptible(answer, database.interrupt)

        try:
            check_reads(sql)
            passing_over_damaged(run, partial(say, err=True))
        except QueryFailed as error:
            fail(str(error), os.EX_DATAERR)
        except KeyboardInterrupt:
            fail("interrupted", EXIT_INTERRUPTED)


def _interruptible(work: Callable[[], None], interrupt: Callable[[], None]) -> None:
    """Run the work in a thread, so that Ctrl-C works while DuckDB computes.

    Raises:
        KeyboardInterrupt: the work was interrupted.
    """
    result: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            result.set_exception(error)
        else:
            result.set_result(None)

    working = Thread(target=run, daemon=True)
    try:
        working.start()
        result.result()
    except KeyboardInterrupt:
        while working.is_alive():  # an interrupt between two computations has no effect
            interrupt()
            working.join(0.1)
        raise


def _write(found: Result, write: Callable[[Result, TextIO], None]) -> None:
    """Write a result to standard output.

    Raises:
        QueryFailed: nothing was written.
        typer.Exit: a part was written; the reason is printed.
    """
    from meshtasks.flows.analytics.database import QueryFailed  # noqa: PLC0415

    try:
        write(found, sys.stdout)
    except QueryFailed as error:
        if found.begun:
            fail(str(error), os.EX_DATAERR)
        raise


def _plot(found: Result, path: Path, sql: str) -> None:
    from meshtasks.observation.chart import ROWS_LIMIT, NotDrawable, chart_of  # noqa: PLC0415
    from meshtasks.observation.drawing import write_chart  # noqa: PLC0415 - slow

    rows = islice(found.rows(), ROWS_LIMIT + 1)
    try:
        chart = chart_of(found.names, rows)
    except NotDrawable as error:
        fail(f"--plot: {error}", os.EX_DATAERR)
    try:
        write_chart(chart, path, note=sql)
    except OSError as error:
        fail(f"--plot: {path}: {error.strerror}", os.EX_CANTCREAT)
    say(f"wrote {path}")
