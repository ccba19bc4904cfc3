"""The workflows that ship for n8n, and what their nodes send."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).parents[2] / "config" / "n8n"
ASK, RECEIVE, CONSUME = "ask-a-model", "receive-events", "consume-a-queue"

_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


class Sent(NamedTuple):
    """A request as a node makes it."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


def workflow(name: str) -> dict[str, Any]:
    """A file."""
    text = (DIRECTORY / f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def node(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A node of a workflow."""
    (found,) = [each for each in document["nodes"] if each["name"] == name]
    return dict(found)


def sent(http_node: dict[str, Any], values: Mapping[str, str]) -> Sent:
    """What an HTTP Request node sends.

    Args:
        http_node: the node.
        values: what each of its expressions comes to; one that is not there is an
            error, so that nobody changes the file and not the test.
    """
    parameters = http_node["parameters"]
    headers = {
        each["name"]: _evaluated(each["value"], values)
        for each in parameters.get("headerParameters", {}).get("parameters", [])
    }
    body = b""
    if parameters.get("sendBody"):
        headers["Content-Type"] = "application/json"
        body = _evaluated(parameters["jsonBody"], values).encode()
    url = _evaluated(parameters["url"], values)
    return Sent(parameters.get("method", "GET"), url, headers, body)


def _evaluated(text: str, values: Mapping[str, str]) -> str:
    if not text.startswith("="):
        return text
    return _EXPRESSION.sub(lambda found: values[found[1].strip()], text[1:])
