"""`meshtasks query`: SQL over the dataset and the archive."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.analytics.compaction import Compaction
from meshtasks.flows.analytics.database import opened
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.sinks import Sinks
from tests.support.analytics import archive, parquet_names
from tests.support.archive import NOON, bucket_environment, directory_environment
from tests.support.chromium import look
from tests.support.command import Command, command, variables
from tests.support.s3 import S3Target

KEY = "sensors.temperature.cellar"
DAY_SECONDS = 86_400


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A mesh in Berlin whose archive is a directory with an odd name."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    odd = tmp_path / "it's [a] *dir"
    return directory_environment(tmp_path, archive_url=f"file://{odd}")


@pytest.fixture
def query(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks query``."""
    run = command(environment, monkeypatch, capsys)
    return lambda *arguments: run("query", *arguments)


def furnish(sinks: Sinks) -> None:
    """A reading of each of two rooms, a metric, and two events."""
    for room, value in (("attic", 50), ("cellar", 59)):
        reading = {"value": value, "unit": "°F", "location": room, "sensor_id": "th"}
        archive(sinks, KEY, reading, name=room)
    metric = {"name": "disk", "fields": {"free": 7}, "tags": {"host": "nas"}}
    archive(sinks, "metrics.system.nas", metric)
    archive(sinks, "sensors.motion.hall", {"motion": True})
    archive(sinks, "home.door.front.state_changed", {"entity_id": "door", "n": [1, 2]})


def asked(query: Command, sql: str) -> list[dict[str, Any]]:
    """The rows as JSON gives them."""
    result = query("--json", sql)
    assert result.exit_code == 0
    assert result.stderr.endswith(" (MESH_ARCHIVE_URL)\n")  # and nothing else
    assert result.stderr.count("\n") == 1
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


# What can be asked


def test_readings_are_asked_in_canonical_units(sinks: Sinks, query: Command) -> None:
    furnish(sinks)
    rows = asked(query, "SELECT * FROM readings ORDER BY location")
    assert rows[0] == {
        "time": "2026-11-23T13:00:00.000+01:00",
        "kind": "temperature",
        "sensor_id": "th",
        "location": "attic",
        "value": 10.0,
        "unit": "°C",
        "routing_key": KEY,
        "record_id": rows[0]["record_id"],
        "domain": "sensors",
        "date": "2026-11-23",
    }


def test_metrics_are_asked_by_their_tags(sinks: Sinks, query: Command) -> None:
    furnish(sinks)
    sql = "SELECT field, value, tags FROM metrics WHERE tags['host'] = 'nas'"
    assert asked(query, sql) == [
        {"field": "free", "value": 7.0, "tags": {"host": "nas"}}
    ]


def test_events_are_asked_by_what_is_in_their_json(
    sinks: Sinks, query: Command
) -> None:
    furnish(sinks)
    sql = "SELECT entity, record FROM events WHERE record->>'$.entity_id' = 'door'"
    assert asked(query, sql) == [
        {"entity": "door", "record": {"entity_id": "door", "n": [1, 2]}}
    ]


def test_the_archive_is_asked_for_records_as_they_were_published(
    sinks: Sinks, query: Command
) -> None:
    furnish(sinks)
    sql = (
        "SELECT exchange, record FROM archive WHERE domain = 'sensors' "
        "AND date = '2026-11-23' AND record->>'$.location' = 'attic'"
    )
    (row,) = asked(query, sql)
    assert row["exchange"] == "sensors"
    assert row["record"]["unit"] == "°F"


def test_views_can_be_joined(sinks: Sinks, query: Command) -> None:
    furnish(sinks)
    sql = "SELECT count(*) AS n FROM readings JOIN archive USING (record_id)"
    assert asked(query, sql) == [{"n": 2}]


def test_an_empty_mesh_has_the_same_views_with_no_rows(query: Command) -> None:
    for view in ("readings", "metrics", "events", "archive"):
        assert asked(query, f"SELECT * FROM {view}") == []
    shown = asked(query, "SHOW TABLES")
    assert [row["name"] for row in shown] == [
        "archive",
        "events",
        "metrics",
        "readings",
    ]


@pytest.mark.parametrize("view", ["readings", "metrics", "events", "archive"])
def test_columns_have_the_same_types_with_and_without_rows(
    sinks: Sinks, query: Command, view: str
) -> None:
    empty = asked(query, f"DESCRIBE {view}")
    furnish(sinks)
    assert asked(query, f"DESCRIBE {view}") == empty


def test_days_leaves_out_what_is_older(sinks: Sinks, query: Command) -> None:
    now = datetime.now(UTC).timestamp()
    for age in (0, 1, 3):
        start = now - age * DAY_SECONDS
        archive(sinks, KEY, {"value": age}, start=start, name=f"d{age}")

    def values(view: str, *options: object) -> list[Any]:
        column = "value" if view == "readings" else "record->'$.value' AS value"
        sql = f"SELECT {column} FROM {view} ORDER BY 1"
        rows = json.loads(query("--json", *options, sql).stdout)
        return [row["value"] for row in rows]

    for view in ("readings", "archive"):
        assert values(view) == [0, 1, 3]
        assert values(view, "--days", 2) == [0, 1]
        assert values(view, "--days", 1) == [0]


def test_now_and_days_are_those_of_the_time_zone(sinks: Sinks, query: Command) -> None:
    late = NOON + 11.5 * 3600  # in Berlin it is the next day
    archive(sinks, KEY, {"value": 1}, start=late)
    sql = "SELECT date_trunc('day', time)::DATE AS day FROM readings"
    assert asked(query, sql) == [{"day": "2026-11-24"}]


def test_a_query_sees_each_row_once_before_and_after_compaction(
    sinks: Sinks, query: Command
) -> None:
    for name in "abc":
        archive(sinks, KEY, {"value": 1}, {"value": 2}, name=name)
    sql = "SELECT count(*) AS n, count(DISTINCT record_id) AS ids FROM readings"
    before = asked(query, sql)
    Compaction(sinks.settings, sinks[OBJECTS], lambda _: None).run()
    assert asked(query, sql) == before == [{"n": 6, "ids": 6}]


def test_while_a_query_reads_compaction_takes_nothing_away(
    sinks: Sinks, environment: Environment
) -> None:
    for name in "abc":
        archive(sinks, KEY, {"value": 1}, {"value": 2}, name=name)
    sql = "SELECT count(*) FROM readings"
    with opened(environment, sinks[OBJECTS], sql) as database:
        compaction = Compaction(sinks.settings, sinks[OBJECTS], lambda _: None)
        assert compaction.run().kept == 3
        assert database.sql(sql).fetchall() == [(6,)]


def test_queries_and_compactions_at_once_see_each_row_once(
    sinks: Sinks, environment: Environment
) -> None:
    sql = "SELECT count(*), count(DISTINCT record_id) FROM readings"
    done = threading.Event()
    counts: list[tuple[int, int]] = []

    def ask() -> None:
        while not done.is_set():
            with opened(environment, sinks[OBJECTS], sql) as database:
                counts.extend(database.sql(sql).fetchall())

    thread = threading.Thread(target=ask)
    thread.start()
    for number in range(12):
        archive(sinks, KEY, {"value": 1}, {"value": 2}, name=f"m{number}")
        Compaction(sinks.settings, sinks[OBJECTS], lambda _: None).run()
    done.set()
    thread.join()

    assert [pair for pair in counts if pair[0] != pair[1]] == []
    assert counts == sorted(counts), "rows were missing for a moment"


def test_a_query_of_the_archive_takes_memory_by_the_size_of_its_objects(
    sinks: Sinks, environment: Environment
) -> None:
    for name in "abcdefgh":
        archive(sinks, KEY, {"value": 1}, {"value": 2}, name=name)
    sql = "SELECT count(*) FROM archive"
    bounds = {"memory_limit": "200MB", "threads": "2"}

    with opened(environment, sinks[OBJECTS], sql, bounds=bounds) as database:
        assert database.sql(sql).fetchall() == [(16,)]


def test_a_long_record_of_the_archive_is_read(
    sinks: Sinks, environment: Environment
) -> None:
    archive(sinks, KEY, {"value": 1, "remark": "x" * 20_000_000})
    sql = "SELECT length(record ->> 'remark') FROM archive"

    with opened(environment, sinks[OBJECTS], sql) as database:
        assert database.sql(sql).fetchall() == [(20_000_000,)]


# How it is printed


def test_people_get_a_table(sinks: Sinks, query: Command) -> None:
    furnish(sinks)
    result = query("SELECT location, value FROM readings ORDER BY 1")
    assert result.exit_code == 0
    assert "│ attic    │  10.0 │" in result.stdout
    assert "│ cellar   │  15.0 │" in result.stdout


def test_a_table_is_cut_after_a_hundred_rows_with_a_note(query: Command) -> None:
    shown = query("SELECT range AS n FROM range(100000)").stdout
    assert "│ 99 │" in shown
    assert "│ 100 │" not in shown
    assert "the first 100 rows; --csv and --json give all of them" in shown
    assert "the first" not in query("SELECT range FROM range(100)").stdout


def test_a_table_without_rows_has_a_note(query: Command) -> None:
    assert "no rows" in query("SELECT * FROM readings").stdout


def test_text_is_never_taken_for_markup(query: Command) -> None:
    assert "[bold]x[/]" in query("SELECT '[bold]x[/]' AS \"[red]\"").stdout


def test_csv_has_a_header_and_quotes_what_needs_it(query: Command) -> None:
    sql = (
        "SELECT 'a,\"b\"\nc' AS t, NULL AS n, 1.5 AS v, true AS b, "
        "DATE '2026-11-23' AS d"
    )
    rows = list(csv.reader(io.StringIO(query("--csv", sql).stdout)))
    assert rows == [
        ["t", "n", "v", "b", "d"],
        ['a,"b"\nc', "", "1.5", "true", "2026-11-23"],
    ]


def test_json_has_every_type_of_duckdb(query: Command) -> None:
    sql = """
        SELECT sum(1) AS huge, 1.25::DECIMAL(9,2) AS exact, 'NaN'::DOUBLE AS nan,
          [1, NULL] AS list, {'a': now()::DATE < '2000-01-01'} AS struct,
          map {'k': [1.5]} AS map, '\\xAB'::BLOB AS bytes, INTERVAL 90 SECONDS AS span,
          TIME '12:30' AS clock, '{"a": [1]}'::JSON AS json, NULL AS nothing,
          1 AS twice, 2 AS twice
    """
    (row,) = asked(query, sql)
    assert "90" in row.pop("span")
    assert row == {
        "huge": 1,
        "exact": 1.25,
        "nan": None,
        "list": [1, None],
        "struct": {"a": False},
        "map": {"k": [1.5]},
        "bytes": "ab",
        "clock": "12:30:00",
        "json": {"a": [1]},
        "nothing": None,
        "twice": 1,
        "twice_2": 2,
    }


def test_a_result_of_any_size_is_printed_as_it_comes(environment: Environment) -> None:
    sql = "SELECT range AS n FROM range(100000000)"
    script = Path(sys.executable).with_name("meshtasks")
    with subprocess.Popen(
        [script, "query", "--csv", sql],
        env={**os.environ, **variables(environment)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [
            b"n\r\n",
            b"0\r\n",
            b"1\r\n",
        ]
        process.terminate()


def test_what_is_no_query_prints_nothing(query: Command) -> None:
    result = query("")

    assert (result.exit_code, result.stdout) == (0, "")


# What goes wrong


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT nosuch FROM readings", 'column "nosuch" not found'),
        ("SELECT * FROM nosuch", "nosuch does not exist"),
        ("SELECT error('on the way') FROM range(3)", "on the way"),
        ("SELECT 'x'::INT", "Could not convert string 'x'"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_query_that_cannot_be_run_is_refused_with_the_reason(
    query: Command, sql: str, text: str, form: list[str]
) -> None:
    result = query(*form, sql)
    assert result.exit_code == 65
    assert "\nmeshtasks: " in result.stderr
    assert text in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--csv", "--json", "SELECT 1"],
        ["--plot", "chart.gif", "SELECT 1"],
        ["--days", "0", "SELECT 1"],
    ],
)
def test_wrong_usage_is_refused(query: Command, arguments: list[str]) -> None:
    assert query(*arguments).exit_code == 2


def test_without_the_extra_the_message_has_its_installation(
    query: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    result = query("SELECT 1")
    assert result.exit_code == 78
    assert "pip install 'meshtasks[analytics]'" in result.stderr


# Charts

LINES = (
    "SELECT location, time + INTERVAL (n) MINUTE AS t, value + n AS warmth "
    "FROM readings, range(5) AS steps(n)"
)


@pytest.mark.usefixtures("chromium")
def test_a_chart_is_a_page_that_a_browser_shows(
    sinks: Sinks, query: Command, tmp_path: Path
) -> None:
    furnish(sinks)
    page = tmp_path / "chart.html"

    result = query("--plot", page, LINES)

    assert result[:2] == (0, f"wrote {page}\n")
    found = look(
        page,
        "return [document.title, [...document.querySelectorAll('.line path')]"
        ".map(e => e.getTotalLength()), document.querySelector('svg')"
        ".getBoundingClientRect().width, document.body.innerText]",
        width=800,
        dark=False,
    )
    title, lengths, width, text = found
    assert title == "warmth by t"
    assert len(lengths) == 2
    assert min(lengths) > 100
    assert 600 < width < 800
    assert "INTERVAL (n) MINUTE" in text


def test_a_chart_is_a_png(sinks: Sinks, query: Command, tmp_path: Path) -> None:
    furnish(sinks)
    picture = tmp_path / "chart.PNG"
    assert query("--plot", picture, LINES).exit_code == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[n : n + 4], "big") for n in (16, 20))
    assert (width, height) == (1920, 960)


def test_a_chart_is_an_svg_that_stands_alone(
    sinks: Sinks, query: Command, tmp_path: Path
) -> None:
    furnish(sinks)
    picture = tmp_path / "chart.svg"
    query("--plot", picture, "SELECT location, value FROM readings")
    root = ET.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].tag.endswith("}style")


def test_rows_that_make_no_chart_are_refused(query: Command, tmp_path: Path) -> None:
    picture = tmp_path / "chart.svg"
    result = query("--plot", picture, "SELECT 'a' AS room")
    assert result.exit_code == 65
    assert "there is no column of numbers beside room" in result.stderr
    assert not picture.exists()


def test_a_chart_that_cannot_be_written_is_named(
    query: Command, tmp_path: Path
) -> None:
    for name in ("no/chart.svg", "no/chart.png"):
        result = query("--plot", tmp_path / name, "SELECT 1 AS a, 2 AS b")
        assert result.exit_code == 73
        assert name in result.stderr


# In a bucket


@pytest.fixture
def in_bucket(
    s3: S3Target, tmp_path: Path
) -> Iterator[Callable[[], tuple[Environment, Sinks]]]:
    """Makes a mesh whose archive is a bucket."""
    with ExitStack() as opened_sinks:

        def make() -> tuple[Environment, Sinks]:
            environment = bucket_environment(s3, tmp_path)
            sinks = Sinks(Settings(environment))
            opened_sinks.callback(sinks.close)
            return environment, sinks

        yield make


def test_a_bucket_is_asked_like_a_directory(
    in_bucket: Callable[[], tuple[Environment, Sinks]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment, sinks = in_bucket()
    furnish(sinks)
    run = command(environment, monkeypatch, capsys)
    sql = "SELECT (SELECT count(*) FROM {}) AS n"
    counts = {
        view: json.loads(run("query", "--json", sql.format(view)).stdout)[0]["n"]
        for view in ("readings", "metrics", "events", "archive")
    }
    assert counts == {"readings": 2, "metrics": 1, "events": 2, "archive": 5}


def test_of_a_bucket_each_object_is_fetched_once_and_only_what_is_asked(
    in_bucket: Callable[[], tuple[Environment, Sinks]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, sinks = in_bucket()
    furnish(sinks)
    store = sinks[OBJECTS]
    got: list[str] = []
    get = store.get

    def noted(name: str) -> bytes:
        got.append(name)
        return get(name)

    monkeypatch.setattr(store, "get", noted)
    for _ in range(2):
        with opened(environment, store, "SELECT 1 FROM readings") as database:
            assert database.sql("SELECT count(*) FROM readings").fetchall() == [(2,)]

    assert sorted(got) == [
        name for name in parquet_names(store) if "analytics/readings/" in name
    ]


def test_what_compaction_replaced_is_not_kept_either(
    in_bucket: Callable[[], tuple[Environment, Sinks]],
) -> None:
    environment, sinks = in_bucket()
    sql = "SELECT count(*) FROM readings"
    for name in "ab":
        archive(sinks, KEY, {"value": 1}, name=name)
    counts = []
    for _ in range(2):
        with opened(environment, sinks[OBJECTS], sql) as database:
            counts += database.sql(sql).fetchall()
        Compaction(sinks.settings, sinks[OBJECTS], lambda _: None).run()

    assert counts == [(2,), (2,)]
    kept = environment.state_dir.rglob("*.parquet")
    assert len(list(kept)) == 1


# What cannot


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT 1 FROM readings, read_blob('{file}')",
        "COPY (SELECT 1) TO '{file}'",
        "COPY (SELECT * FROM readings) TO '{out}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
        "ATTACH '{out}'",
        "EXPORT DATABASE '{out}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; COPY (SELECT 1) TO '{out}'",
        "PRAGMA enable_external_access",
    ],
)
def test_a_query_reads_and_writes_no_other_file(
    sinks: Sinks, query: Command, tmp_path: Path, sql: str
) -> None:
    furnish(sinks)
    file, out = tmp_path / "other.parquet", tmp_path / "out"
    file.write_text("not for you")

    result = query(sql.format(file=file, out=out))

    assert result.exit_code == os.EX_DATAERR
    assert "not for you" not in result.stdout + result.stderr
    assert file.read_text() == "not for you"
    assert not out.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO {file}",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO {file}",
        "EXPLAIN /* */ (ANALYZE) copy (SELECT 1) TO {file}",
        "WITH c AS (COPY (SELECT 1) TO {file}) SELECT 1",
        "WITH b AS (SELECT E'\\''), c AS (COPY (SELECT 1) TO {file}) SELECT 1",
        "WITH b AS (SELECT $a$ ' $a$), c AS (COPY (SELECT 1) TO {file}) SELECT 1",
        "COPY (PIVOT (SELECT 1 a, 2 b) ON a USING sum(b)) TO {file}",
        "SELECT 1; WITH c AS (COPY (SELECT 1) TO {file}) SELECT 1",
    ],
)
def test_the_files_of_a_view_cannot_be_written_either(
    sinks: Sinks, query: Command, sql: str
) -> None:
    furnish(sinks)
    (name, *_) = parquet_names(sinks[OBJECTS])
    path = sinks[OBJECTS].path(name)  # type: ignore[attr-defined]  # of a directory
    before = path.read_bytes()
    place = f"'{str(path).replace(chr(39), chr(39) * 2)}' (USE_TMP_FILE false)"

    result = query(f"{sql.format(file=place)} -- readings events metrics")

    assert result.exit_code == os.EX_DATAERR
    assert "expected a query that reads" in result.stderr
    assert path.read_bytes() == before


def test_a_column_may_be_called_copy(sinks: Sinks, query: Command) -> None:
    furnish(sinks)

    result = query("SELECT 1 AS \"copy\", 'copy' AS text -- copy")

    assert result.exit_code == 0


@pytest.mark.parametrize(
    "sql",
    [
        "DESCRIBE readings",
        "SUMMARIZE readings",
        "EXPLAIN SELECT 1 FROM readings",
        "FROM readings",
        "PIVOT (SELECT location, value FROM readings) ON location USING avg(value)",
    ],
)
def test_every_kind_of_question_can_be_asked(
    sinks: Sinks, query: Command, sql: str
) -> None:
    furnish(sinks)
    assert query(sql).exit_code == 0
