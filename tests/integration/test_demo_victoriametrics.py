"""The private VictoriaMetrics."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.demo import loopback
from meshtasks.demo.audit import stored_points
from meshtasks.demo.process import ProcessFailed
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.timeseries import DOCTORS_MEASUREMENT
from meshtasks.flows.timeseries_queries import retention_seconds, victoriametrics_state
from tests.support.processes import processes_of
from tests.support.victoria import Series, export
from tests.support.waiting import wait_until

READING_AT_MS = 1_700_000_000_000
READING = b"temperature,sensor_id=attic celsius=3.5 %d000000" % READING_AT_MS
STORED = [
    Series("temperature_celsius", {"sensor_id": "attic"}, {READING_AT_MS: 3.5}),
]


def write(server: VictoriaMetrics, *lines: bytes) -> None:
    path = "/api/v2/write?org=home&bucket=mesh"
    loopback.request("POST", server.port, path, body=b"\n".join(lines))


def test_a_point_is_a_series_named_for_measurement_and_field(
    victoria: VictoriaMetrics,
) -> None:
    write(victoria, READING)

    assert export(victoria) == STORED


def test_it_counts_the_field_values_it_takes(victoria: VictoriaMetrics) -> None:
    assert victoria.rows_inserted() == 0

    write(victoria, READING, b"metrics,host=nas load=0.5,disk=7i")

    wait_until(lambda: victoria.rows_inserted() == 3, 10.0, "three values counted")


def test_what_doctor_stored_is_no_point_of_a_record(victoria: VictoriaMetrics) -> None:
    now_ns = time.time_ns()
    write(victoria, b"%s ok=1 %d" % (DOCTORS_MEASUREMENT.encode(), now_ns))
    write(victoria, b"temperature,sensor_id=attic celsius=3.5 %d" % now_ns)

    points = stored_points(victoria.port, now_ns // 1_000_000_000 - 1)

    assert points.by_kind == {"sensors.temperature": 1}


def test_points_survive_a_restart_on_the_same_port(victoria: VictoriaMetrics) -> None:
    write(victoria, READING)

    victoria.restart()

    assert export(victoria) == STORED


def test_it_comes_back_after_a_crash(victoria: VictoriaMetrics) -> None:
    victoria.kill()
    victoria.start()
    write(victoria, READING)

    assert export(victoria) == STORED


def test_a_point_of_years_ago_is_kept(victoria: VictoriaMetrics) -> None:
    write(victoria, b"temperature celsius=1 1000000000000000000")

    (series,) = export(victoria)
    assert series.samples == {1_000_000_000_000: 1.0}


def test_it_listens_on_loopback_alone(victoria: VictoriaMetrics) -> None:
    """127.0.0.2 reaches those who listen on every address, not on 127.0.0.1."""
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.2", victoria.port)) != 0


@pytest.mark.parametrize("end", [VictoriaMetrics.stop, VictoriaMetrics.kill])
def test_nothing_is_left_running(
    victoria: VictoriaMetrics, end: Callable[[VictoriaMetrics], None]
) -> None:
    end(victoria)

    assert processes_of(victoria.directory) == []


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = VictoriaMetrics(tmp_path)
    with (
        closing(socket.create_server((loopback.HOST, server.port))),
        pytest.raises(ProcessFailed, match=r"(?s)ended while.*address already in use"),
    ):
        server.start()


def test_a_second_one_on_the_same_directory_is_refused(
    victoria: VictoriaMetrics,
) -> None:
    with pytest.raises(ProcessFailed, match="running already"):
        VictoriaMetrics(victoria.directory).start()


def test_it_is_run_as_the_mesh_needs_it(victoria: VictoriaMetrics) -> None:
    state = victoriametrics_state(victoria.url)
    assert state is not None
    assert list(state.faults()) == []
    assert "archive replay --from 2h" in state.restart(time.time())
    assert state.restart(time.time() + 90_000) == ""


def test_a_batch_that_is_written_twice_counts_once(victoria: VictoriaMetrics) -> None:
    for _ in range(2):
        write(victoria, READING)
        loopback.request("GET", victoria.port, "/internal/force_flush")
    start = READING_AT_MS // 1000 + 1
    page = loopback.request(
        "GET",
        victoria.port,
        f"/api/v1/query?query=count_over_time(temperature_celsius[1m])&time={start}",
    )
    assert json.loads(page)["data"]["result"][0]["value"][1] == "1"


def test_nobody_without_its_key_deletes_series(victoria: VictoriaMetrics) -> None:
    write(victoria, READING)
    path = "/api/v1/admin/tsdb/delete_series?match[]=temperature_celsius"
    with pytest.raises(loopback.HTTPFailed, match="authKey"):
        loopback.request("GET", victoria.port, path)
    assert export(victoria) == STORED


def test_of_one_with_its_defaults_it_is_said_what_it_drops(tmp_path: Path) -> None:
    foreign = VictoriaMetrics(tmp_path)
    foreign.process.command[:] = [
        each
        for each in foreign.process.command
        if not each.startswith(("-retention", "-dedup", "-maxLabels", "-deleteAuth"))
    ]
    with foreign:
        before = victoriametrics_state(foreign.url)
        write(foreign, b"temperature celsius=1 1000000000000000000")
        wait_until(
            lambda: (
                (state := victoriametrics_state(foreign.url)) is not None
                and state.dropped_old == 1
            ),
            10.0,
            "a dropped value counted",
        )
        after = victoriametrics_state(foreign.url)
    assert before is not None
    assert after is not None
    assert before.retention_seconds == 31 * 86_400
    told = "; ".join(before.faults())
    for flag in ("-retentionPeriod", "-dedup.minScrapeInterval=1ms", "-deleteAuthKey"):
        assert flag in told
    assert "has dropped 1 values" in next(after.faults())


@pytest.mark.parametrize(
    ("text", "days"),
    [("1", 31), ("12h", 0.5), ("30d", 30), ("2w", 14), ("1.5y", 547.5)],
)
def test_a_retention_is_read_as_it_is_meant(text: str, days: float) -> None:
    assert retention_seconds(text) == days * 86_400
