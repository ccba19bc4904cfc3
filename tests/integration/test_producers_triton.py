"""Statistics of a real Triton as metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshtasks.demo import loopback
from meshtasks.producers.configuration import Selection
from meshtasks.producers.triton import TritonCollector, TritonConfig
from tests.support.collectors import metrics_until, running, write_config
from tests.support.receiver import Answer, Receiver
from tests.support.triton import DOUBLE, RAISE, Server, load, rows, unload
from tests.support.waiting import wait_until


class Clock:
    """Time that the test moves on."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


Collect = Callable[[], dict[str, Any]]


@pytest.fixture
def collecting(clock: Clock) -> Iterator[Callable[..., Collect]]:
    """Makes what collects from a server: fields by model, and of the scrape."""
    collectors = []

    def make(url: str, **config: Any) -> Collect:
        headers = config.pop("headers", {})
        collector = TritonCollector(TritonConfig(**config), url, headers, elapsed=clock)
        collectors.append(collector)

        def collect() -> dict[str, Any]:
            found = {}
            for measured in collector.collect():
                record = measured.record
                key = f"metrics.application.triton.{record['name']}"
                assert measured.routing_key == key
                found[record["tags"].get("model", "scrape")] = record["fields"]
            return found

        return collect

    yield make
    for collector in collectors:
        collector.close()


def ask(server: Server, what: int, count: int) -> None:
    """Ask ``obedient`` with one request of so many rows."""
    tensor = rows(*((1.0, what) for _ in range(count)))
    body = json.dumps({"inputs": [tensor]}).encode()
    try:
        loopback.request(
            "POST",
            server.port,
            "/v2/models/obedient/infer",
            body=body,
            timeout_seconds=30.0,
        )
    except loopback.HTTPFailed:
        assert what == RAISE


def requests(server: Server) -> int:
    """How many ``obedient`` has answered, well or not."""
    answer = loopback.request("GET", server.port, "/v2/models/obedient/stats")
    (statistics,) = json.loads(answer)["model_stats"]
    by_end = statistics["inference_stats"]
    return int(by_end["success"]["count"] + by_end["fail"]["count"])


def test_the_counts_of_a_model_become_rates_and_durations_per_request(
    triton: Server, clock: Clock, collecting: Callable[..., Collect]
) -> None:
    collect = collecting(f"http://{triton.url}")
    before = collect()["obedient"]
    counted = requests(triton)
    for _ in range(4):
        ask(triton, DOUBLE, 5)
    ask(triton, RAISE, 1)
    # It counts a request after it has answered it.
    wait_until(lambda: requests(triton) == counted + 5, 30.0, "Triton to count")
    clock.seconds += 10.0

    after = collect()["obedient"]

    assert "requests_per_second" not in before
    assert after["requests"] - before["requests"] == 4
    assert after["requests_per_second"] == 0.4
    assert after["failures_per_second"] == 0.1
    # Rows that failed are not counted, and their execution is.
    assert after["inferences_per_second"] == 2.0
    assert after["executions_per_second"] == 0.5
    assert after["rows_per_execution"] == 4.0
    assert 0 < after["compute_infer_ms"] <= after["request_ms"]
    assert after["queue_ms"] >= 0


def test_a_model_without_requests_has_rates_of_zero_and_no_durations(
    triton: Server, clock: Clock, collecting: Callable[..., Collect]
) -> None:
    collect = collecting(f"http://{triton.url}", models=Selection(include=("echo",)))
    collect()
    clock.seconds += 10.0

    found = collect()

    assert found.keys() == {"echo", "scrape"}
    assert found["echo"]["requests_per_second"] == 0.0
    assert "request_ms" not in found["echo"]


def test_a_model_that_is_loaded_again_begins_anew(
    new_triton: Server, clock: Clock, collecting: Callable[..., Collect]
) -> None:
    collect = collecting(f"http://{new_triton.url}")
    for _ in range(3):
        ask(new_triton, DOUBLE, 1)
    wait_until(lambda: requests(new_triton) == 3, 30.0, "Triton to count")
    collect()
    unload(new_triton, "obedient")
    clock.seconds += 10.0
    assert "obedient" not in collect()
    load(new_triton, "obedient")
    ask(new_triton, DOUBLE, 1)
    wait_until(lambda: requests(new_triton) == 1, 30.0, "Triton to count")
    clock.seconds += 10.0

    assert "requests_per_second" not in collect()["obedient"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(403, b'{"error": "restricted"}'), "answered 403: it wants another"),
        (Answer(404), "answered 404"),
        (Answer(body=b"<html>"), "does not answer as Triton does"),
        (
            Answer(body=b'{"model_stats": [{"name": "x"}]}'),
            "model x: has no statistics: version",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_without_statistics_is_not_up(
    receiver: Receiver,
    collecting: Callable[..., Collect],
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    reason: str,
) -> None:
    receiver.always = answer
    collect = collecting(receiver.url, headers={"triton-access-token": "abc"})

    for _ in range(2):
        assert collect()["scrape"]["up"] is False

    assert caplog.text.count(reason) == 1
    assert receiver.requests[0].path == "/v2/models/stats"
    assert receiver.requests[0].headers["triton-access-token"] == "abc"


def test_its_metrics_are_in_the_queue(
    mesh_url: str, triton: Server, tmp_path: Any
) -> None:
    config = {"interval_seconds": 1.0}
    env = {
        "MESH_BROKER_URL": mesh_url,
        "MESH_TRITON_URL": triton.url,
        **write_config(tmp_path, "triton", config),
    }
    with running("triton", env):
        metrics = metrics_until(
            mesh_url,
            "metrics.application",
            lambda taken: any("requests_per_second" in e["fields"] for e in taken),
            "rates",
        )

    models = {each["tags"].get("model") for each in metrics}
    assert {"echo", "obedient", "temperature-anomaly"} <= models
    assert {each["tags"]["instance"] for each in metrics} == {triton.url}
