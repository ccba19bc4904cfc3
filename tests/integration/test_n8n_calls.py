"""What the nodes of the shipped workflows send, sent to the gateway."""

from __future__ import annotations

import json
from http import HTTPStatus

import requests

from tests.support.amqp import drain, take
from tests.support.gateway import Gateway
from tests.support.n8n import ASK, CONSUME, Sent, node, sent, workflow

INPUTS = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]


def send(gateway: Gateway, request: Sent) -> requests.Response:
    path = request.url.removeprefix(gateway.url)
    return gateway.request(
        request.method, path, data=request.body, headers=request.headers
    )


def test_a_model_is_asked_and_the_outcome_polled(
    gateway: Gateway, gateway_url: str
) -> None:
    drain(gateway_url, "commands")
    document = workflow(ASK)
    ask = sent(
        node(document, "Start the task"),
        {
            "$json.gateway": gateway.url,
            "JSON.stringify($json.body.model)": '"echo"',
            "JSON.stringify($json.body.inputs)": json.dumps(INPUTS),
            "$workflow.id": document["id"],
            "$execution.id": "17",
        },
    )

    accepted = send(gateway, ask)
    again = send(gateway, ask)
    poll = sent(
        node(document, "Ask for its outcome"),
        {
            "$('Where the mesh is').first().json.gateway": gateway.url,
            "$('Start the task').first().json.headers.location": accepted.headers[
                "Location"
            ],
        },
    )
    outcome = send(gateway, poll)

    assert accepted.status_code == HTTPStatus.ACCEPTED
    assert again.json() == accepted.json()
    (call,) = drain(gateway_url, "commands")
    assert json.loads(call.body)[1]["inputs"] == INPUTS
    assert outcome.json()["state"] == "pending"


def test_an_alert_is_raised(gateway: Gateway, gateway_url: str) -> None:
    for queue in ("alerts.critical", "alerts.notifications"):
        drain(gateway_url, queue)
    document = workflow(CONSUME)
    alert = sent(
        node(document, "Raise an alert"),
        {
            "$('Where the mesh is').first().json.gateway": gateway.url,
            "JSON.stringify($json.entity + ' was opened')": '"door.front was opened"',
            "JSON.stringify($json.entity)": '"door.front"',
            "$workflow.id": document["id"],
            "$json.message": "m1",
        },
    )

    answer = send(gateway, alert)

    assert answer.status_code == HTTPStatus.ACCEPTED
    (delivery,) = take(gateway_url, "alerts.notifications", 1)
    assert json.loads(delivery.body)["labels"] == {"entity": "door.front"}
