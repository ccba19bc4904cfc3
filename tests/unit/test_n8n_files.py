"""The workflows for n8n: what must be in them for nothing to be lost."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.n8n import CONSUME, DIRECTORY, RECEIVE, workflow

NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def nodes_of(kind: str | None = None) -> list[Any]:
    """Parameters of a test: workflow and node, for each node or those of a kind."""
    return [
        pytest.param(document, node, id=f"{name}: {node['name']}")
        for name in NAMES
        for document in [workflow(name)]
        for node in document["nodes"]
        if kind is None or node["type"].endswith(f".{kind}")
    ]


def test_ids_are_unique_and_what_n8n_makes_of_them() -> None:
    ids = [workflow(name)["id"] for name in NAMES]

    assert len(set(ids)) == len(ids) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9]{16}", each) for each in ids)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_imported_inactive_and_end_in_time(name: str) -> None:
    document = workflow(name)

    assert document["active"] is False
    assert document["settings"]["executionTimeout"] <= 120


@pytest.mark.parametrize("name", NAMES)
def test_connections_lead_from_node_to_node(name: str) -> None:
    document = workflow(name)
    names = {node["name"] for node in document["nodes"]}
    targets = {
        link["node"]
        for outputs in document["connections"].values()
        for output in outputs["main"]
        for link in output
    }

    assert document["connections"].keys() | targets == names


@pytest.mark.parametrize(("document", "node"), nodes_of())
def test_core_nodes_only(document: Any, node: Any) -> None:
    assert node["type"].startswith("n8n-nodes-base.")


@pytest.mark.parametrize(("document", "node"), nodes_of("webhook"))
def test_webhooks_want_a_secret_and_answer_at_the_end(document: Any, node: Any) -> None:
    parameters = node["parameters"]

    assert parameters["authentication"] == "headerAuth"
    assert parameters["responseMode"] == "responseNode"
    assert node["credentials"]["httpHeaderAuth"]["id"] == "meshWebhookToken"
    assert any(each["type"].endswith(".respondToWebhook") for each in document["nodes"])


@pytest.mark.parametrize(("document", "node"), nodes_of("httpRequest"))
def test_calls_of_the_gateway_bear_its_token_and_may_be_repeated(
    document: Any, node: Any
) -> None:
    parameters = node["parameters"]

    assert parameters["genericAuthType"] == "httpBearerAuth"
    assert node["credentials"]["httpBearerAuth"]["id"] == "meshGatewayToken"
    assert node["retryOnFail"] is True
    if parameters.get("method") == "POST":
        headers = parameters["headerParameters"]["parameters"]
        assert [each["name"] for each in headers] == ["Idempotency-Key"]


def test_the_queue_is_left_as_the_mesh_declares_it_and_messages_until_done() -> None:
    (trigger,) = [
        each
        for each in workflow(CONSUME)["nodes"]
        if each["type"].endswith(".rabbitmqTrigger")
    ]

    options = trigger["parameters"]["options"]
    assert options["assertQueue"] is False
    assert options["acknowledge"] == "executionFinishesSuccessfully"
    assert options["parallelMessages"] >= 1
    assert "binding" not in options
    # A body that is not JSON would be neither acknowledged nor rejected, for ever.
    assert "jsonParseBody" not in options


def test_events_are_received_where_the_docs_say() -> None:
    (webhook,) = [
        each for each in workflow(RECEIVE)["nodes"] if each["type"].endswith(".webhook")
    ]

    assert webhook["parameters"]["path"] == "mesh-event"


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_in_a_file(name: str) -> None:
    text = (DIRECTORY / f"{name}.json").read_text(encoding="utf-8")

    assert not re.search(r"[A-Za-z0-9_-]{40,}", text)
