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
from tests.support.gateway import TOKENS

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

    for model in ("SilenceAlerts", "JsonTensor"):
        for name, argument in schemas[model]["properties"].items():
            assert argument["description"], (model, name)
