"""`topology export --asyncapi`: the mesh for those who write to it and read from it.

The specification's own JSON Schema comes from npm: tests/peers/test_asyncapi.py
validates the document with it. Here stand the rules that a schema cannot express.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from meshtasks.amqp import headers
from meshtasks.cli import app
from meshtasks.cli.asyncapi import DEAD_LETTER, PASSED_ON, document
from tests.support.handling import HANDLERS
from tests.support.topologies import SHIPPED, shipped_topology

DOCUMENT = document(shipped_topology(), HANDLERS)


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)
        case _:  # text or a number: refers to nothing
            pass


def found(reference: str) -> Any:
    value: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        value = value[step]
    return value


def payload_faults(queue: str, body: object) -> list[str]:
    payload = DOCUMENT["components"]["messages"][queue]["payload"]
    schema = {**payload, "components": DOCUMENT["components"]}
    return [each.message for each in Draft7Validator(schema).iter_errors(body)]


def test_the_command_needs_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_CONFIG_DIR", str(SHIPPED.parent))
    monkeypatch.delenv("MESH_BROKER_URL", raising=False)

    done = CliRunner().invoke(app, ["topology", "export", "--asyncapi"])

    assert (done.exit_code, json.loads(done.stdout)) == (0, DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    for each in references(DOCUMENT):
        assert isinstance(found(each), dict), each


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def test_every_queue_with_a_handler_can_be_reached() -> None:
    received = {
        queue
        for operation in DOCUMENT["operations"].values()
        if operation["action"] == "receive"
        for queue in found(operation["channel"]["$ref"])["messages"]
    }

    assert received == set(HANDLERS) - {"pending.timeseries"}  # only the mesh fills it


def test_the_parameters_of_a_channel_are_those_of_its_address() -> None:
    for channel in DOCUMENT["channels"].values():
        named = set(re.findall(r"{(\w+)}", channel["address"]))
        assert set(channel.get("parameters", {})) == named


def test_wildcards_become_parameters() -> None:
    addresses = {each["address"] for each in DOCUMENT["channels"].values()}

    assert "sensors.temperature.{words}" in addresses
    assert "home.{word1}.{word2}.state_changed" in addresses


def test_a_fanout_has_one_channel_whatever_the_key() -> None:
    fanout = [
        each
        for each in DOCUMENT["channels"].values()
        if each["bindings"]["amqp"].get("exchange", {}).get("name") == "alerts"
    ]

    assert [each["address"] for each in fanout] == ["{words}"]


@pytest.mark.parametrize(
    "body", [{"value": 21.5}, [{"value": 21.5, "unit": "°C"}, {"value": 3}], 21.5]
)
def test_a_reading_may_be_an_object_an_array_or_a_bare_number(body: object) -> None:
    assert payload_faults("sensors.temperature", body) == []


def test_text_for_a_number_does_not_fit() -> None:
    assert payload_faults("sensors.temperature", {"value": "21.5"}) != []


def test_every_header_of_the_mesh_is_described() -> None:
    written = {
        value
        for value in vars(headers).values()
        if isinstance(value, str) and value.startswith("x-mesh-")
    }

    assert written - {*PASSED_ON, *DEAD_LETTER} == set()


def test_members_of_records_are_described() -> None:
    reading = DOCUMENT["components"]["schemas"]["SensorReading"]

    assert "Attributes" not in reading["description"]
    assert reading["properties"]["location"]["description"] == "where the sensor is."
