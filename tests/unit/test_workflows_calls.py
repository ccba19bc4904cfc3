"""The HTTP requests that records come to: order, bodies, headers, keys."""

from __future__ import annotations

import json
from typing import Any

from meshtasks.flows.webhooks.client import (
    HomeEvent,
    WebhookRequest,
    WorkflowRun,
    requests_of,
)
from meshtasks.flows.webhooks.config import Workflow
from meshtasks.outcome import DONE, Retry
from meshtasks.records.envelope import Envelope

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


def workflow(name: str, send: str = "record") -> Workflow:
    return Workflow.model_validate(
        {"name": name, "routing_key": "#", "webhook": {"url": "/x", "send": send}}
    )


def run(
    name: str, *workflows: Workflow, key: str = "sensors.motion.hall", **record: Any
) -> WorkflowRun:
    envelope = Envelope(b"{}", "sensors", key, "sensors.motion", None, None, NOON, {})
    return WorkflowRun(name, envelope, HomeEvent(0, NOON, record), workflows)


def shape(requests: list[WebhookRequest]) -> list[tuple[str, list[str]]]:
    return [
        (request.workflow.name, [each.id for each in request.runs])
        for request in requests
    ]


def test_records_come_one_after_the_other_each_with_its_workflows_in_order() -> None:
    a, b = workflow("a"), workflow("b")

    requests = requests_of([run("r1", b, a), run("r2", a)])

    assert shape(requests) == [("b", ["r1"]), ("a", ["r1"]), ("a", ["r2"])]


def test_whole_batches_are_one_request_each_after_all_others() -> None:
    single, whole = workflow("single"), workflow("whole", send="batch")

    requests = requests_of([run("r1", whole, single), run("r2", whole)])

    assert shape(requests) == [("single", ["r1"]), ("whole", ["r1", "r2"])]


def test_the_body_of_a_single_request_is_the_record() -> None:
    request = WebhookRequest(workflow("a"), [run("r1", motion=True, sensor_id="Küche")])

    assert request.body() == '{"motion":true,"sensor_id":"Küche"}'.encode()


def test_a_single_request_says_where_the_record_came_from() -> None:
    headers = WebhookRequest(workflow("light"), [run("m1/0a1b")]).headers()

    assert headers == {
        "Idempotency-Key": "m1/0a1b/light",
        "X-Mesh-Workflow": "light",
        "X-Mesh-Exchange": "sensors",
        "X-Mesh-Routing-Key": "sensors.motion.hall",
        "X-Mesh-Time": "2026-11-23T12:00:00.000Z",
    }


def test_no_id_and_no_routing_key_can_break_a_header() -> None:
    request = WebhookRequest(workflow("a"), [run("x\r\nEvil: 1%/é\udcff", key="a. b")])

    headers = request.headers()

    assert headers["Idempotency-Key"] == "x%0D%0AEvil:%201%25/%C3%A9?/a"
    assert headers["X-Mesh-Routing-Key"] == "a.%20b"


def test_the_body_of_a_whole_batch_has_the_id_of_every_record() -> None:
    request = WebhookRequest(
        workflow("a", send="batch"), [run("r1", n=1), run("r2", n=2, key="a\udcff")]
    )

    assert json.loads(request.body()) == [
        {
            "id": "r1",
            "exchange": "sensors",
            "routing_key": "sensors.motion.hall",
            "time": "2026-11-23T12:00:00.000Z",
            "record": {"n": 1},
        },
        {
            "id": "r2",
            "exchange": "sensors",
            "routing_key": "a?",
            "time": "2026-11-23T12:00:00.000Z",
            "record": {"n": 2},
        },
    ]


def test_the_key_of_a_whole_batch_is_that_of_its_records() -> None:
    a, b = run("r1"), run("r2")
    whole = workflow("a", send="batch")

    keys = [
        WebhookRequest(whole, runs).headers()["Idempotency-Key"]
        for runs in ([a, b], [a, b], [a])
    ]

    assert keys[0] == keys[1] != keys[2]


def test_numbers_that_json_has_not_are_null() -> None:
    request = WebhookRequest(workflow("a"), [run("r1", huge=float("inf"))])

    assert request.body() == b'{"huge":null}'


def test_a_record_knows_who_has_taken_it() -> None:
    a, b = workflow("a"), workflow("b")
    record = run("r1", a, b)

    WebhookRequest(a, [record]).resolve(DONE)
    WebhookRequest(b, [record]).resolve(Retry("500"))

    assert record.taken == ["a"]
