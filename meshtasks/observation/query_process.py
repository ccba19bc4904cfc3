"""One query for a page or a program, in a process of its own with bounds:
``python -m meshtasks.observation.query_process``.

DuckDB's own bounds do not hold for everything: one function that makes a long text
takes gigabytes and cannot be interrupted. So the system bounds the process, and whoever
started it may end it at any time. The request comes on standard input, the answer goes
to standard output, both as JSON (:mod:`meshtasks.observation.query`).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from contextlib import closing, suppress
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.errors import MeshError
from meshtasks.flows.archive.objects import open_store
from meshtasks.observation.query import (
    EXIT_TOO_LONG,
    MEMORY_BYTES,
    SHOWN_BYTES,
    SHOWN_CHARS,
    SHOWN_ROWS,
    TOO_LARGE,
    since,
)
from meshtasks.text import clip

#: Of DuckDB; what it keeps elsewhere counts for the process alone.
_DUCKDB = {
    "memory_limit": f"{MEMORY_BYTES}B",
    "max_temp_directory_size": f"{2 * MEMORY_BYTES}B",
    "threads": "2",
}
_CHART_WIDTH, _CHART_HEIGHT = 960, 380


def main() -> None:
    """Answer one query."""
    request = json.loads(sys.stdin.buffer.read())
    _bound(request["seconds"])
    first = since(request["days"])
    try:
        answer = _answer(
            request["sql"], first, request["seconds"], drawn=request["drawn"]
        )
    except MemoryError:
        answer = {"error": TOO_LARGE}
    except MeshError as error:
        reason = str(error)  # DuckDB advises settings that cannot be changed here
        answer = {"error": TOO_LARGE if "Out of Memory" in reason else reason}
    json.dump(answer, sys.stdout)


def _bound(seconds: float) -> None:
    """Let the system end the process if it takes too much."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES))
    cpu_seconds = int(4 * seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    with suppress(OSError):  # elsewhere than on Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _end_after(seconds: float) -> None:
    ending = threading.Timer(seconds, os._exit, (EXIT_TOO_LONG,))
    ending.daemon = True
    ending.start()


def _answer(
    sql: str, first: date | None, seconds: float, *, drawn: bool
) -> dict[str, Any]:
    """Run the query, for at most so long: the start of the process does not count.

    Raises:
        MeshError: it is refused, or cannot be answered.
    """
    require("analytics", "a query")
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415 - an extra
        check_reads,
        opened,
        passing_over_damaged,
    )
    from meshtasks.observation.query_result import Result, translated  # noqa: PLC0415

    env = load_settings().env
    _end_after(seconds)
    check_reads(sql)
    notes: list[str] = []
    with closing(open_store(env)) as store:

        def run(left_out: frozenset[str]) -> dict[str, Any]:
            with opened(env, store, sql, first, left_out, _DUCKDB) as database:
                with translated():
                    result = Result(database.sql(sql))
                return _shown(result, drawn=drawn)

        answer: dict[str, Any] = passing_over_damaged(run, notes.append)
    return {**answer, "notes": notes}


def _shown(result: Any, *, drawn: bool) -> dict[str, Any]:
    """The first rows, and the chart of all of them."""
    from meshtasks.observation.chart import ROWS_LIMIT  # noqa: PLC0415 - of the extra
    from meshtasks.observation.query_result import plain_json  # noqa: PLC0415

    limit = ROWS_LIMIT if drawn else SHOWN_ROWS
    rows = list(islice(result.rows(), limit + 1))
    shown: list[list[Any]] = []
    size_bytes = 0
    for row in rows[:SHOWN_ROWS]:
        values = [_clipped(plain_json(value)) for value in row]
        size_bytes += len(json.dumps(values))
        if size_bytes > SHOWN_BYTES:
            break
        shown.append(values)
    chart = _chart(result.names, rows) if drawn else (None, "")
    return {
        "columns": result.names,
        "rows": shown,
        "more": len(shown) < len(rows),
        "chart": chart[0],
        "no_chart": chart[1],
    }


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return clip(value, SHOWN_CHARS)
    if isinstance(value, list | dict) and len(text := json.dumps(value)) > SHOWN_CHARS:
        return clip(text, SHOWN_CHARS)
    return value


def _chart(names: list[str], rows: list[list[Any]]) -> tuple[str | None, str]:
    """The chart as SVG; or None, and why there is none."""
    from meshtasks.observation.chart import NotDrawable, chart_of  # noqa: PLC0415
    from meshtasks.observation.drawing import svg  # noqa: PLC0415 - slow

    try:
        return svg(chart_of(names, rows), _CHART_WIDTH, _CHART_HEIGHT), ""
    except NotDrawable as error:
        return None, str(error)


if __name__ == "__main__":
    main()
