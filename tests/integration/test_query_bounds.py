"""Queries of pages and programs: whatever they are, they are bounded."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from meshtasks.observation.query import Answered, Queries, QueryRefused
from tests.support.archive import directory_environment
from tests.support.command import variables
from tests.support.waiting import wait_until

ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(1000000000) b"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = directory_environment(tmp_path, broker_url="amqp://u:p@127.0.0.1:1/x")
    for name, value in variables(mesh).items():
        monkeypatch.setenv(name, value)


def ask(sql: str, seconds: float = 300.0, *, drawn: bool = False) -> Answered:
    return asyncio.run(Queries(seconds).run(sql, None, drawn=drawn))


def test_values_are_those_of_json() -> None:
    answer = ask("SELECT DATE '2026-11-20' AS d, 'inf'::DOUBLE AS f, [1, NULL] AS l")

    assert (answer.columns, answer.rows) == (
        ["d", "f", "l"],
        [["2026-11-20", None, [1, None]]],
    )


def test_no_more_than_some_rows_are_given() -> None:
    answer = ask("SELECT * FROM range(100000)", drawn=True)

    assert len(answer.rows) == 1_000
    assert answer.more
    assert "more than 50,000 rows" in answer.no_chart


def test_a_query_without_an_end_is_ended() -> None:
    with pytest.raises(QueryRefused, match="more than 1 s"):
        ask(ENDLESS, 1.0)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 1000000000) || repeat('y', 2000000000)",
        "SELECT list_sum(range(300000000))",
        "SELECT list(i) FROM range(300000000) t(i)",
    ],
)
def test_a_query_cannot_eat_the_memory(sql: str) -> None:
    with pytest.raises(QueryRefused, match="more than 512 MB of memory"):
        ask(sql)


def test_a_process_that_crashes_is_not_said_to_have_taken_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\ncat >/dev/null; kill -SEGV $$\n", encoding="utf-8")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))

    with pytest.raises(QueryRefused, match=r"process failed \(SIGSEGV\)"):
        ask("SELECT 1")


def test_a_query_ends_with_whoever_waits_for_it() -> None:
    def running() -> list[psutil.Process]:
        return [
            each
            for each in psutil.Process().children()
            if "meshtasks.observation.query" in each.cmdline()
        ]

    async def leave() -> None:
        asking = asyncio.create_task(Queries(300.0).run(ENDLESS, None, drawn=False))
        await asyncio.to_thread(wait_until, running, 60, "its process")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())

    assert running() == []
