"""The time-series sink: what is stored, what is refused, what may pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from meshtasks.config.environment import Environment
from meshtasks.demo import loopback
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.flows.timeseries import TimeSeries
from tests.support.influx import InfluxTarget
from tests.support.receiver import Answer, Receiver
from tests.support.victoria import export

T0_MS = 1_795_440_000_000

Open = Callable[..., TimeSeries]


@pytest.fixture
def connect() -> Iterator[Open]:
    """Opens sinks, and closes them after the test."""
    with ExitStack() as opened:

        def connect(
            url: str,
            bucket: str = "mesh",
            token: str = "secret-token",
            **options: float,
        ) -> TimeSeries:
            sink = TimeSeries(url, token, "home", bucket, **options)
            opened.callback(sink.close)
            return sink

        yield connect


def line(second: int, value: object = 21.5, measurement: str = "temperature") -> str:
    return f"{measurement},sensor_id=s1 celsius={value} {T0_MS + second * 1000}"


def lines(count: int) -> list[str]:
    return [line(second) for second in range(count)]


def refused(dropped: int) -> Answer:
    said = (
        "failure writing points to database: partial write: field type conflict: input "
        'field "celsius" on measurement "missing route" is type string, already exists '
        f"as type float dropped={dropped}"
    )
    content = {"code": "unprocessable entity", "message": said}
    return Answer(422, json.dumps(content).encode())


# --- VictoriaMetrics


def test_points_are_stored(connect: Open, victoria: VictoriaMetrics) -> None:
    rejected = connect(victoria.url).write([line(0, 21.5), line(1, 22.0)])

    (series,) = export(victoria)
    assert rejected == {}
    assert series.name == "temperature_celsius"
    assert series.labels == {"sensor_id": "s1"}
    assert series.samples == {T0_MS: 21.5, T0_MS + 1000: 22.0}


def test_a_restarted_store_is_written_to_as_if_nothing_had_been(
    connect: Open, victoria: VictoriaMetrics
) -> None:
    sink = connect(victoria.url)
    sink.write([line(0)])

    victoria.kill()
    victoria.start()

    assert sink.write([line(1)]) == {}


def test_a_store_that_is_down_is_unavailable_until_it_is_back(
    connect: Open, victoria: VictoriaMetrics
) -> None:
    sink = connect(victoria.url)
    sink.probe()
    victoria.kill()

    with pytest.raises(SinkUnavailable, match="Connection refused") as caught:
        sink.write([line(0)])
    with pytest.raises(SinkUnavailable):
        sink.probe()
    assert caught.value.sink == "timeseries"

    victoria.start()
    sink.probe()
    assert sink.write([line(0)]) == {}


def test_a_wrong_path_is_a_fault_of_the_configuration_not_of_the_data(
    connect: Open, victoria: VictoriaMetrics
) -> None:
    with pytest.raises(SinkUnavailable, match="MESH_INFLUX_URL"):
        connect(f"{victoria.url}/nowhere").write([line(0)])


# --- the InfluxDB engine


def test_the_store_keeps_values_as_floats(connect: Open, influx: InfluxTarget) -> None:
    connect(influx.url, influx.bucket, influx.token).write([line(0, 21.0)])

    (row,) = influx.select("SELECT * FROM temperature")
    (kind,) = influx.select("SHOW FIELD KEYS FROM temperature")
    assert (row["time"], row["celsius"], row["sensor_id"]) == (T0_MS * 10**6, 21, "s1")
    assert kind["fieldType"] == "float"


def test_a_line_that_cannot_be_parsed_is_named_and_its_neighbours_are_stored(
    connect: Open, influx: InfluxTarget
) -> None:
    batch = lines(100)
    batch[37] = line(37, "abc")

    rejected = connect(influx.url, influx.bucket, influx.token).write(batch)

    assert list(rejected) == [37]
    assert "unable to parse" in rejected[37]
    assert len(influx.select("SELECT * FROM temperature")) == 99


def test_lines_of_the_wrong_type_are_named_and_their_neighbours_are_stored(
    connect: Open, influx: InfluxTarget
) -> None:
    sink = connect(influx.url, influx.bucket, influx.token)
    sink.write([line(0, "1i", "other")])
    batch = lines(50)
    batch[0], batch[49] = line(0, 1.5, "other"), line(49, 1.5, "other")

    rejected = sink.write(batch)

    assert list(rejected) == [0, 49]
    assert "already exists as type integer" in rejected[0]
    assert len(influx.select("SELECT * FROM temperature")) == 48


def test_half_of_a_batch_that_does_not_fit_is_found_in_one_more_request(
    connect: Open, influx: InfluxTarget
) -> None:
    sink = connect(influx.url, influx.bucket, influx.token)
    sink.write([line(0, 1.5)])
    batch = [line(n, '"open"' if n % 2 else 1.5) for n in range(2_000)]

    rejected = sink.write(batch)

    assert list(rejected) == list(range(1, 2_000, 2))
    assert "here float until 2026-11-30" in rejected[1]
    assert len(influx.select("SELECT * FROM temperature")) == 1_000


def test_a_bucket_that_does_not_exist_is_a_fault_of_the_configuration(
    connect: Open, influx: InfluxTarget
) -> None:
    sink = connect(influx.url, "nowhere", influx.token)

    with pytest.raises(SinkUnavailable, match="MESH_INFLUX_BUCKET"):
        sink.write([line(0)])
    with pytest.raises(SinkUnavailable):
        sink.probe()


def test_a_store_that_is_there_answers_the_probe(
    connect: Open, influx: InfluxTarget
) -> None:
    connect(influx.url, influx.bucket, influx.token).probe()


# --- answers that only a script gives


def test_one_batch_is_one_request(connect: Open, receiver: Receiver) -> None:
    receiver.always = Answer(204)

    connect(receiver.url).write(lines(500))

    (request,) = receiver.requests
    assert request.path == "/api/v2/write?org=home&bucket=mesh&precision=ms"
    assert request.headers["authorization"] == "Token secret-token"
    assert request.body == "\n".join(lines(500)).encode()


def test_no_points_are_no_request(connect: Open, receiver: Receiver) -> None:
    assert connect(receiver.url).write([]) == {}
    assert receiver.requests == []


def test_a_batch_that_is_too_large_is_halved(connect: Open, receiver: Receiver) -> None:
    receiver.always = Answer(204)
    receiver.script(Answer(413))

    assert connect(receiver.url).write(lines(4)) == {}
    assert [request.body.count(b"\n") + 1 for request in receiver.requests] == [4, 2, 2]


def test_a_line_that_is_too_large_alone_is_refused(
    connect: Open, receiver: Receiver
) -> None:
    receiver.always = Answer(413, b"Request Entity Too Large")

    rejected = connect(receiver.url).write(lines(2))

    assert rejected == {
        0: "the time-series store answered 413: Request Entity Too Large",
        1: "the time-series store answered 413: Request Entity Too Large",
    }


def test_lines_that_an_answer_names_cost_one_more_request(
    connect: Open, receiver: Receiver
) -> None:
    receiver.script(refused(dropped=500), Answer(204))
    batch = [
        line(n, '"open"' if n % 2 else 1.5, r"missing\ route") for n in range(1_000)
    ]

    rejected = connect(receiver.url).write(batch)

    assert list(rejected) == list(range(1, 1_000, 2))
    assert [each.body.count(b"\n") + 1 for each in receiver.requests] == [1_000, 500]


def test_a_number_that_does_not_fit_what_is_named_is_halved(
    connect: Open, receiver: Receiver
) -> None:
    receiver.script(refused(dropped=2), refused(dropped=1), Answer(204), Answer(204))
    batch = [line(n, '"open"' if n == 0 else 1.5, r"missing\ route") for n in range(4)]

    assert list(connect(receiver.url).write(batch)) == [0]
    assert len(receiver.requests) == 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(200, b"<html>Log in</html>"), "a page for people"),
        (Answer(200), "MESH_INFLUX_URL the store itself"),
        (Answer(202, b"{}"), "answered 202"),
        (Answer(302, headers={"Location": "/login"}), "answered 302"),
        (Answer(400, b'{"message":"Please provide either orgID or org"}'), "ORG"),
        (Answer(400, b"Client sent an HTTP request to an HTTPS server."), "HTTPS"),
    ],
)
def test_what_is_not_the_stores_word_about_points_is_neither_success_nor_refusal(
    connect: Open, receiver: Receiver, answer: Answer, words: str
) -> None:
    receiver.always = answer

    with pytest.raises(SinkUnavailable, match=words):
        connect(receiver.url).write(lines(3))

    assert len(receiver.requests) == 1


def test_a_batch_of_which_every_line_was_dropped_is_not_halved(
    connect: Open, receiver: Receiver
) -> None:
    said = "failure writing points: partial write: points beyond retention dropped=4"
    body = json.dumps({"code": "unprocessable entity", "message": said}).encode()
    receiver.always = Answer(422, body)

    rejected = connect(receiver.url).write(lines(4))

    assert rejected == dict.fromkeys(
        range(4), f"the time-series store answered 422: {said}"
    )
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "MESH_INFLUX_TOKEN is missing or wrong"),
        (403, "may not write to MESH_INFLUX_BUCKET"),
        (404, "MESH_INFLUX_URL, MESH_INFLUX_ORG or MESH_INFLUX_BUCKET is wrong"),
        (301, "answered 301"),
        (405, "answered 405"),
    ],
)
def test_a_fault_of_the_configuration_says_what_to_mend(
    connect: Open, receiver: Receiver, status: int, hint: str
) -> None:
    receiver.always = Answer(status, b'{"message": "no"}')

    with pytest.raises(SinkUnavailable, match=hint) as caught:
        connect(receiver.url).write(lines(2))

    assert "secret-token" not in str(caught.value)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_fault_that_may_pass_is_not_the_datas(
    connect: Open, receiver: Receiver, status: int
) -> None:
    receiver.always = Answer(status, b"\xff not UTF-8 \xff")

    with pytest.raises(SinkUnavailable):
        connect(receiver.url).write(lines(2))

    assert len(receiver.requests) == 1


def test_retry_after_in_seconds_is_passed_on(connect: Open, receiver: Receiver) -> None:
    receiver.always = Answer(429, headers={"Retry-After": "17"})

    with pytest.raises(SinkUnavailable) as caught:
        connect(receiver.url).write(lines(1))

    assert caught.value.retry_after_seconds == 17


def test_retry_after_as_a_date_is_passed_on(connect: Open, receiver: Receiver) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    receiver.always = Answer(503, headers={"Retry-After": date})

    with pytest.raises(SinkUnavailable) as caught:
        connect(receiver.url).write(lines(1))

    assert caught.value.retry_after_seconds == pytest.approx(60, abs=30)


def test_a_store_that_does_not_answer_in_time_is_unavailable(
    connect: Open, receiver: Receiver
) -> None:
    receiver.always = Answer(204, delay_seconds=60)

    with pytest.raises(SinkUnavailable, match="did not answer in time"):
        connect(receiver.url, answer_timeout_seconds=0.1).write(lines(1))


def test_a_fault_in_the_middle_of_halving_makes_the_whole_batch_undecided(
    connect: Open, receiver: Receiver
) -> None:
    receiver.script(Answer(400, b"unable to parse"), Answer(204), Answer(503))

    with pytest.raises(SinkUnavailable):
        connect(receiver.url).write(lines(2))


def test_a_port_that_nobody_listens_on_is_unavailable(connect: Open) -> None:
    sink = connect(f"http://127.0.0.1:{loopback.free_port()}")

    with pytest.raises(SinkUnavailable, match="Connection refused"):
        sink.write(lines(1))


@pytest.mark.parametrize("url", ["localhost:8086", "amqp://localhost", "http://"])
def test_a_url_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="MESH_INFLUX_URL"):
        TimeSeries.from_environment(Environment(influx_url=url))
