"""What the gateway says of itself: OpenAPI, and the pages that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.app import create_gateway
from meshtasks.gateway.context import Context
from tests.support.browser import Browser
from tests.support.gateway import TOKENS, Gateway

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Json:
    environment = Environment(
        config_dir=ROOT / "config",
        broker_url=SecretStr("amqp://u:p@127.0.0.1:1/mesh"),
        state_dir=tmp_path_factory.mktemp("state"),
        api_tokens=SecretStr(TOKENS),
    )
    settings, flows = Settings(environment), load_flows()
    context = Context.from_settings(settings, flows.handlers(settings), flows.commands)
    openapi: Json = create_gateway(context).openapi()
    return openapi


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_valid_openapi(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [e.message for e in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_operation_says_what_it_does_and_how_it_fails(document: Json) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        if "security" not in operation or name == "GET /metrics":
            continue
        problems = {
            status: response
            for status, response in operation["responses"].items()
            if status >= "400"
        }
        assert {"401", "429"} <= problems.keys(), name
        for status, response in problems.items():
            assert "application/problem+json" in response["content"], (name, status)


def test_every_example_fits_its_schema(document: Json) -> None:
    checked = 0
    for name, schema in document["components"]["schemas"].items():
        whole = {**schema, "components": document["components"]}
        for example in schema.get("examples", ()):
            faults = Draft202012Validator(whole).iter_errors(example)
            assert [fault.message for fault in faults] == [], name
            checked += 1
    assert checked > 3


@pytest.mark.parametrize(
    "operation",
    ["GET /v1/status", "GET /v1/archive", "POST /v1/query", "POST /v1/tasks/publish"],
)
def test_what_the_pages_need_is_there(document: Json, operation: str) -> None:
    assert operation in dict(operations(document))


def test_the_arguments_of_commands_are_explained(document: Json) -> None:
    schemas: Mapping[str, Json] = document["components"]["schemas"]

    for name, argument in schemas["SilenceAlerts"]["properties"].items():
        assert argument["description"], name


@pytest.mark.usefixtures("chromium")
def test_the_pages_need_nothing_from_elsewhere(
    console: Gateway, browser: Browser
) -> None:
    browser.look(width=1280)
    browser.requested.clear()
    browser.complaints.clear()
    browser.open(f"{console.url}/docs")

    browser.wait_for("/v1/query")

    assert browser.complaints == []
    local = (console.url, "data:")
    assert [url for url in browser.requested if not url.startswith(local)] == []


class TestLooking:
    def test_status_is_that_of_the_command(self, console: Gateway) -> None:
        answer = console.get("/v1/status", caller="visitor").json()

        names = [queue["name"] for queue in answer["queues"]]
        assert "sensors.temperature" in names
        assert answer["dead_letters"] == 0

    def test_a_query_is_answered(self, console: Gateway) -> None:
        body = {"sql": "SELECT 1 AS one, NULL AS none", "chart": True}
        answer = console.post("/v1/query", body, caller="visitor").json()

        assert (answer["columns"], answer["rows"]) == (["one", "none"], [[1, None]])
        assert "there is no column of numbers" in answer["no_chart"]

    def test_a_query_that_would_write_is_refused(self, console: Gateway) -> None:
        body = {"sql": "COPY (SELECT 1) TO 'x'"}
        answer = console.post("/v1/query", body, caller="operator")

        assert answer.status_code == 422
        assert "expected a query that reads" in answer.json()["detail"]

    @pytest.mark.parametrize("path", ["/v1/status", "/v1/archive"])
    def test_whoever_may_not_look_is_refused(self, console: Gateway, path: str) -> None:
        assert console.get(path, caller="sensor").status_code == 403
        assert console.get(path, caller=None).status_code == 401

    def test_the_archive_is_told_by_day(self, console: Gateway) -> None:
        answer = console.get("/v1/archive?domain=nothing", caller="visitor").json()

        assert answer == {"days": [], "gaps": [], "foreign": 0}
