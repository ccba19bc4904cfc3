"""The AsyncAPI document against the specification's own JSON Schema."""

from __future__ import annotations

import json

from jsonschema import Draft7Validator

from meshtasks.cli.asyncapi import document
from tests.peers.npm import npm
from tests.peers.places import PEERS
from tests.support.handling import HANDLERS
from tests.support.topologies import shipped_topology

#: Where the project AsyncAPI publishes its schemas.
VERSION = "@asyncapi/specs@6.11.1"


def test_the_document_is_what_the_specification_asks_for() -> None:
    directory = PEERS / "asyncapi"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    npm(directory, "install", "--ignore-scripts", VERSION)
    schemas = directory / "node_modules" / "@asyncapi" / "specs" / "schemas"
    # The other one names its parts by addresses, which would be fetched.
    schema = json.loads((schemas / "3.0.0-without-$id.json").read_text("utf-8"))

    faults = Draft7Validator(schema).iter_errors(document(shipped_topology(), HANDLERS))

    assert [f"{list(each.absolute_path)}: {each.message}" for each in faults] == []
