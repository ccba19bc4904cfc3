"""A query of the archive and its dataset for a page or a program: it reads only, and is
bounded in time, memory and answer, whatever it is.

DuckDB's own bounds do not hold for everything: one function that makes a long text
takes gigabytes and cannot be interrupted. So each query runs in a process of its own,
``python -m meshtasks.observation.query``, which the system bounds, and which whoever
started it may end at any time. The request comes on its standard input, the answer goes
to its standard output, both as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import threading
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.errors import MeshError
from meshtasks.flows.archive.objects import open_store
from meshtasks.text import clip

#: A query that takes longer is ended, and one that takes more memory.
SECONDS = 30.0
MEMORY_BYTES = 512 << 20
#: Of an answer: rows, bytes of them, and characters of one value.
SHOWN_ROWS, SHOWN_BYTES, SHOWN_CHARS = 1_000, 4 << 20, 10_000
#: A process ends with it if its time is over.
EXIT_TOO_LONG = 124
#: Starting, and ending by itself, may take so long on a busy machine.
_GRACE_SECONDS = 60.0
#: Queries at once, and such as may wait for them.
_AT_ONCE, _WAITING = 2, 20
_FEWER = "ask for less: fewer days, columns or rows"
_NO_MEMORY = ("MemoryError", "bad_alloc", "emory allocation", "of memory")
TOO_LARGE = f"it takes more than {MEMORY_BYTES >> 20} MB of memory; {_FEWER}"
#: Of DuckDB; what it keeps elsewhere counts for the process alone.
_DUCKDB = {
    "memory_limit": f"{MEMORY_BYTES}B",
    "max_temp_directory_size": f"{2 * MEMORY_BYTES}B",
    "threads": "2",
}
_CHART_WIDTH, _CHART_HEIGHT = 960, 380


class QueryRefused(MeshError):
    """The query is no such as may be run, or it took too much."""


class Answered(NamedTuple):
    """What a query has given.

    Attributes:
        columns: their names.
        rows: the first of them; values as in JSON.
        more: there are more rows.
        chart: of the rows, as SVG, if it was asked for and can be drawn.
        no_chart: why it cannot.
        notes: what was left out, because it is damaged.
    """

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    chart: str | None
    no_chart: str
    notes: list[str]


def since(days: int | None) -> date | None:
    """The first of the last so many UTC dates."""
    if days is None:
        return None
    return datetime.now(UTC).date() - timedelta(days=days - 1)


class Queries:
    """Runs queries, each in a process of its own, a few at once."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def run(self, sql: str, days: int | None, *, drawn: bool) -> Answered:
        """Answer a query; ended when whoever waits for it goes.

        Args:
            days: only the last so many days (UTC); None is all.
            drawn: make a chart, too.

        Raises:
            QueryRefused: it may not be run, cannot be answered, or takes too much.
        """
        if self._waiting >= _WAITING:
            message = "too many queries are waiting; try again later"
            raise QueryRefused(message)
        self._waiting += 1
        try:
            async with self._slots:
                request = {"sql": sql, "days": days, "drawn": drawn}
                return await _run(request, self._seconds)
        finally:
            self._waiting -= 1


async def _run(request: dict[str, Any], seconds: float) -> Answered:
    with TemporaryDirectory(prefix="meshtasks-") as scratch:  # a killed one leaves it
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "meshtasks.observation.query"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": scratch},
        )
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                text, complaint = await process.communicate(
                    json.dumps({**request, "seconds": seconds}).encode()
                )
        except TimeoutError:
            raise _too_long(seconds) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode == EXIT_TOO_LONG:
        raise _too_long(seconds)
    if process.returncode:
        reason = _how_it_ended(process.returncode, complaint.decode(errors="replace"))
        raise QueryRefused(reason)
    answer = json.loads(text)
    if "error" in answer:
        raise QueryRefused(answer["error"])
    return Answered(**answer)


def _too_long(seconds: float) -> QueryRefused:
    return QueryRefused(f"it takes more than {seconds:g} s; {_FEWER}")


def _how_it_ended(returncode: int, complaint: str) -> str:
    """Why a process has ended by itself: out of memory, which Python and C++ name and
    the system ends with SIGKILL, or with a fault that it names last."""
    last = complaint.strip().rpartition("\n")[2]
    if last.startswith("meshtasks"):
        return last
    is_killed = returncode == -signal.SIGKILL
    if is_killed or any(name in complaint for name in _NO_MEMORY):
        return TOO_LARGE
    how = f"exit code {returncode}"
    if returncode < 0:
        how = signal.Signals(-returncode).name
    return f"the query's process failed ({how}): {clip(last, 200)}"


def main() -> None:
    """Answer one query."""
    request = json.loads(sys.stdin.buffer.read())
    _bound(request["seconds"])
    try:
        answer = _answer(**request)
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


def _answer(
    sql: str, days: int | None, seconds: float, *, drawn: bool
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
    ending = threading.Timer(seconds, os._exit, (EXIT_TOO_LONG,))
    ending.daemon = True
    ending.start()
    check_reads(sql)
    notes: list[str] = []
    with closing(open_store(env)) as store:

        def run(left_out: frozenset[str]) -> dict[str, Any]:
            with opened(env, store, sql, since(days), left_out, _DUCKDB) as database:
                with translated():
                    result = Result(database.sql(sql))
                return _shown(result, drawn=drawn)

        answer: dict[str, Any] = passing_over_damaged(run, notes.append)
    return {**answer, "notes": notes}


def _shown(result: Any, *, drawn: bool) -> dict[str, Any]:
    """The first rows, and the chart of all of them."""
    from meshtasks.observation.chart import (  # noqa: PLC0415 - of the extra
        ROWS_LIMIT,
        NotDrawable,
        chart_of,
    )
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
    chart, no_chart = None, ""
    if drawn:
        from meshtasks.observation.drawing import svg  # noqa: PLC0415 - slow

        try:
            chart = svg(chart_of(result.names, rows), _CHART_WIDTH, _CHART_HEIGHT)
        except NotDrawable as error:
            no_chart = str(error)
    return {
        "columns": result.names,
        "rows": shown,
        "more": len(shown) < len(rows),
        "chart": chart,
        "no_chart": no_chart,
    }


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return clip(value, SHOWN_CHARS)
    if isinstance(value, list | dict) and len(text := json.dumps(value)) > SHOWN_CHARS:
        return clip(text, SHOWN_CHARS)
    return value


if __name__ == "__main__":
    main()
