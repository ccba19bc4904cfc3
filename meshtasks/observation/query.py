"""Run a query of the archive and its dataset for a page or a program. A query can only
read, and its time, memory and answer are limited.

DuckDB's own limits are not sufficient: one function that makes a long text takes
gigabytes and cannot be interrupted. So each query runs in a process of its own,
``python -m meshtasks.observation.query``. The operating system limits the process, and
its parent may kill it at any time. The request is JSON on standard input, the answer is
JSON on standard output.
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

#: Limits of a query: run time and memory.
SECONDS = 30.0
MEMORY_BYTES = 512 << 20
#: Limits of an answer: rows, bytes of all rows, and characters of one value.
SHOWN_ROWS, SHOWN_BYTES, SHOWN_CHARS = 1_000, 4 << 20, 10_000
#: Exit code of a process that exceeded the run time.
EXIT_TOO_LONG = 124
#: Extra time for the start and the end of the process on a busy machine.
_GRACE_SECONDS = 60.0
#: Queries that run at once, and queries that run or wait at most.
_AT_ONCE, _WAITING = 2, 20
_FEWER = "ask for less: fewer days, columns or rows"
_NO_MEMORY = ("MemoryError", "bad_alloc", "emory allocation", "of memory")
TOO_LARGE = f"it takes more than {MEMORY_BYTES >> 20} MB of memory; {_FEWER}"
#: DuckDB's settings. Memory that DuckDB does not count is limited by the process.
_DUCKDB = {
    "memory_limit": f"{MEMORY_BYTES}B",
    "max_temp_directory_size": f"{2 * MEMORY_BYTES}B",
    "threads": "2",
}
_CHART_WIDTH, _CHART_HEIGHT = 960, 380


class QueryRefused(MeshError):
    """The query is not permitted, or it exceeds a limit."""


class Answered(NamedTuple):
    """The result of a query.

    Attributes:
        columns: names of the columns.
        rows: the first rows; values as in JSON.
        more: whether there are more rows.
        chart: chart of the rows as SVG; None if it was not requested or is impossible.
        no_chart: why a chart is impossible; else empty.
        notes: objects that were left out because they are damaged.
    """

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    chart: str | None
    no_chart: str
    notes: list[str]


def since(days: int | None) -> date | None:
    """The first of the last ``days`` UTC dates; None for all dates."""
    if days is None:
        return None
    return datetime.now(UTC).date() - timedelta(days=days - 1)


class Queries:
    """Runs queries, each in a process of its own, two at once.

    Args:
        seconds: longest run time of a query.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def run(self, sql: str, days: int | None, *, drawn: bool) -> Answered:
        """Run a query. If the caller is cancelled, the query is killed.

        Args:
            sql: the query.
            days: read only the last so many UTC dates; None reads all.
            drawn: also draw a chart.

        Raises:
            QueryRefused: the query is not permitted, fails, or exceeds a limit.
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
    with TemporaryDirectory(prefix="meshtasks-") as scratch:  # cleans up after a kill
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
    """Why a process ended by itself: out of memory, which Python and C++ report and the
    system ends with SIGKILL; or a fault, which its last line names."""
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
    """Answer the request on standard input."""
    request = json.loads(sys.stdin.buffer.read())
    _bound(request["seconds"])
    try:
        answer = _answer(**request)
    except MemoryError:
        answer = {"error": TOO_LARGE}
    except MeshError as error:
        reason = str(error)  # DuckDB recommends settings that users cannot change here
        answer = {"error": TOO_LARGE if "Out of Memory" in reason else reason}
    json.dump(answer, sys.stdout)


def _bound(seconds: float) -> None:
    """Set the operating system's limits of this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES))
    cpu_seconds = int(4 * seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _answer(
    sql: str, days: int | None, seconds: float, *, drawn: bool
) -> dict[str, Any]:
    """Run the query. Its time limit does not include the start of the process.

    Raises:
            MeshError: the query is not permitted or fails.
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
    """The first rows, and the chart of all rows."""
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
