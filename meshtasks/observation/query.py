"""A query of the archive and its dataset for a page or a program: it reads only, and is
bounded in time, memory and answer, whatever it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, date, datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from meshtasks.errors import MeshError
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
    """Runs queries, each in a process of its own, a few at once.

    Args:
        seconds: one that takes longer is ended.
    """

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
                return await _run(
                    {
                        "sql": sql,
                        "days": days,
                        "drawn": drawn,
                        "seconds": self._seconds,
                    }
                )
        finally:
            self._waiting -= 1


async def _run(request: dict[str, Any]) -> Answered:
    seconds: float = request["seconds"]
    with TemporaryDirectory(prefix="meshtasks-") as scratch:  # a killed one leaves it
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "meshtasks.observation.query_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": scratch},
        )
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                text, complaint = await process.communicate(
                    json.dumps(request).encode()
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
