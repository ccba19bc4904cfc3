"""The handlers of metrics, with real stores and broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Retry
from meshtasks.records.envelope import Envelope
from tests.support.amqp import drain
from tests.support.archive import lines_sent
from tests.support.handling import NOW, handle, message, opened, settings_of
from tests.support.influx import InfluxTarget
from tests.support.victoria import count_samples, export

NOW_MS = int(NOW * 1000)
DISK = "metrics.system.nas"

Open = Callable[..., Sinks]


@pytest.fixture
def open_sinks(mesh_env: dict[str, str]) -> Iterator[Open]:
    """Opens the sinks of a mesh, with changes to its environment."""
    with ExitStack() as stack:

        def open_sinks(**environment: Any) -> Sinks:
            return stack.enter_context(opened(settings_of(mesh_env, **environment)))

        yield open_sinks


@pytest.fixture
def sinks(open_sinks: Open) -> Sinks:
    return open_sinks()


@pytest.fixture
def influx_sinks(open_sinks: Open, influx: InfluxTarget) -> Sinks:
    """Sinks whose time-series store is InfluxDB's engine."""
    return open_sinks(
        influx_url=influx.url,
        influx_token=influx.token,
        influx_org=influx.org,
        influx_bucket=influx.bucket,
    )


def metric(
    fields: Any, name: str = "disk", second: float = 0, **more: Any
) -> dict[str, Any]:
    return {"name": name, "fields": fields, "timestamp": NOW + second, **more}


def system(content: Any) -> Envelope:
    return message("metrics.system", DISK, content)


# --- points


def test_each_field_of_a_metric_is_a_series_with_its_tags(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    disk = metric({"free": 7, "used_percent": 91.5}, tags={"host": "nas", "path": "/"})

    assert handle(sinks, system(disk)) == [DONE]

    free, used = export(victoria)
    assert (free.name, used.name) == ("disk_free", "disk_used_percent")
    assert free.labels == used.labels == {"host": "nas", "path": "/"}
    assert used.samples == {NOW_MS: 91.5}


def test_metrics_of_applications_are_stored_too(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    requests = {"name": "http_requests", "value": 17, "timestamp": NOW}
    key = "metrics.application.gateway"

    assert handle(sinks, message("metrics.application", key, requests)) == [DONE]

    assert [each.name for each in export(victoria)] == ["http_requests_value"]


def test_influxdb_keeps_one_point_and_every_type(
    influx_sinks: Sinks, influx: InfluxTarget
) -> None:
    fields = {"load": 0.5, "cores": 4, "ok": True, "health": 'a "b" \\ c,\td=e \\'}
    tags = {"name": "n a,s=1", "path": "C:\\data\nC:\\"}

    handle(influx_sinks, system(metric(fields, "host", tags=tags)))

    (row,) = influx.select("SELECT * FROM host")
    kinds = influx.select("SHOW FIELD KEYS FROM host")
    assert {name: row[name] for name in fields} == fields
    assert row["name"] == "n a,s=1"
    assert row["path"] == r"C:\data\nC:/"
    assert {each["fieldKey"]: each["fieldType"] for each in kinds} == {
        "load": "float",
        "cores": "float",
        "ok": "boolean",
        "health": "string",
    }


@pytest.mark.parametrize(
    "text",
    ['say "hi"', "C:\\", "a=b,c d", "\\\\", '\\"', "Küche", "a\nb=1", "\0\t\r\x1b"],
)
def test_no_text_takes_its_neighbours_with_it(
    sinks: Sinks, victoria: VictoriaMetrics, text: str
) -> None:
    odd = metric({"note": text, "n": 1}, "odd", tags={"k": 'a="b",c'})
    good = [metric({"n": 1}, second=second) for second in (1, 2)]

    handle(sinks, system(good[0]), system(odd), system(good[1]))

    assert count_samples(victoria, "disk_n") == 2
    assert count_samples(victoria, "odd_n") == 1


@pytest.mark.parametrize(
    "body",
    [
        (
            b'{"fields":{"free":0,"total":5},"name":"swap","tags":{"host":"vm"},'
            b'"timestamp":1795439940}\n'
            b'{"fields":{"uptime_format":" 0:49"},"name":"system","tags":{"host":"vm"},'
            b'"timestamp":1795439940}\n'
        ),
        (
            b'{"metrics":[{"fields":{"free":0,"total":5},"name":"swap",'
            b'"tags":{"host":"vm"},"timestamp":1795439940000000000},'
            b'{"fields":{"uptime_format":" 0:49"},"name":"system","tags":{"host":"vm"},'
            b'"timestamp":1795439940000000}]}'
        ),
        (
            b"swap,host=vm free=0i,total=5i 1795439940000000000\n"
            b'system,host=vm uptime_format=" 0:49" 1795439940000\n'
        ),
    ],
    ids=["json", "json batch", "influx"],
)
def test_what_telegraf_writes_is_stored_and_archived_in_each_of_its_formats(
    sinks: Sinks, victoria: VictoriaMetrics, mesh_url: str, body: bytes
) -> None:
    assert handle(sinks, system(body)) == [DONE, DONE]

    assert {(each.name, *each.samples.items()) for each in export(victoria)} == {
        ("swap_free", (1_795_439_940_000, 0)),
        ("swap_total", (1_795_439_940_000, 5)),
        ("system_uptime_format", (1_795_439_940_000, 0)),  # it has numbers only
    }
    (archived,) = drain(mesh_url, "archive.metrics")
    assert [line["record"]["name"] for line in lines_sent(archived.body)] == [
        "swap",
        "system",
    ]


def test_names_that_line_protocol_cannot_write_plainly_are_stored(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    odd = ["C:\\Windows\\a.exe", "C:\\", "one\ntwo", "\\\\nas\\a b\\"]
    metrics = [
        metric({"n": 1, "text": "two\nlines"}, tags={"path": path}) for path in odd
    ]

    assert handle(sinks, system(metrics)) == [DONE] * 4

    assert sorted(
        each.labels["path"] for each in export(victoria) if each.name == "disk_n"
    ) == ["/\\nas\\a b/", "C:/", "C:\\Windows\\a.exe", r"one\ntwo"]


def test_bad_metrics_are_dead_and_their_neighbours_are_stored(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    good, nested = metric({"n": 1}), metric({"n": {"1m": 1}})

    outcomes = handle(
        sinks,
        system(good),
        system(nested),
        system([nested, metric({"n": 2}, second=1)]),
    )

    assert [type(each).__name__ for each in outcomes] == [
        "Done",
        "Dead",
        "Dead",
        "Done",
    ]
    assert count_samples(victoria) == 2


def test_a_field_of_another_type_than_before_is_dead_alone(
    influx_sinks: Sinks, influx: InfluxTarget
) -> None:
    handle(influx_sinks, system(metric({"n": 1})))

    dead, done = handle(
        influx_sinks,
        system(metric({"n": "one"}, second=1)),
        system(metric({"n": 2}, second=2)),
    )

    assert isinstance(dead, Dead)
    assert "field type conflict" in dead.reason
    assert done is DONE
    assert len(influx.select("SELECT * FROM disk")) == 2


def test_a_rerun_changes_nothing(
    sinks: Sinks, victoria: VictoriaMetrics, mesh_url: str
) -> None:
    batch = [
        system(metric({"used_percent": 99.0}, second=second)) for second in (0, 400)
    ]

    handle(sinks, *batch)
    first = drain(mesh_url, "alerts.notifications")
    handle(sinks, *batch)

    assert count_samples(victoria) == 2
    assert len(first) == 1
    assert drain(mesh_url, "alerts.notifications") == []


def test_while_the_store_is_down_good_metrics_wait_and_bad_ones_are_dead(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    victoria.kill()

    good, bad = handle(sinks, system(metric({"n": 1})), system(metric({})))

    assert isinstance(good, Retry)
    assert good.sink == "timeseries"
    assert isinstance(bad, Dead)


# --- alerts and archive


def test_a_disk_that_stays_full_is_an_alert_and_ends_as_one(
    sinks: Sinks, mesh_url: str
) -> None:
    tags = {"host": "nas", "path": "/data"}
    course = [(0, 95.5), (300, 95.5), (600, 50.0)]

    handle(
        sinks,
        *(
            system(metric({"used_percent": percent}, second=second, tags=tags))
            for second, percent in course
        ),
    )

    firing, resolved = (
        json.loads(each.body) for each in drain(mesh_url, "alerts.notifications")
    )
    assert firing["title"] == "nas: /data is nearly full"
    assert firing["message"] == "/data of nas is 96 % full."
    assert firing["labels"] == {
        "rule": "disk-full",
        "kind": "disk",
        "field": "used_percent",
        **tags,
    }
    assert resolved["resolved"]
    assert resolved["fingerprint"] == firing["fingerprint"]


def test_selected_metrics_go_to_the_archive_as_they_came(
    sinks: Sinks, mesh_url: str
) -> None:
    disk = metric({"n": 1}, source="telegraf")

    handle(sinks, system(disk), system(metric({})))

    (archived,) = drain(mesh_url, "archive.metrics")
    (line,) = lines_sent(archived.body)
    assert archived.routing_key == "metrics.system"
    assert line["record"] == disk
