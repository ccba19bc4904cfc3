"""What to add to the configuration, so that a message is taken that nobody takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from pydantic_core import from_json

from meshtasks.amqp.entities import is_reserved
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.routing import MQTT_EXCHANGE, topic_matches
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.settings import Settings
from meshtasks.observation.explain import exchanges_for
from meshtasks.records.kinds import KINDS

#: Names of kinds, of units' fields, and of YAML that needs no quotes.
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LONGEST_BYTES = 255


class Addition(NamedTuple):
    """Lines for a configuration file.

    Attributes:
        file: its name in the configuration directory.
        below: the line of the file that they go right below; empty if they go to its
            end.
        lines: as they stand there.
    """

    file: str
    below: str
    lines: tuple[str, ...]


class _File:
    """A configuration file as its owner has written it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._name = name
        path = settings.env.config_file(name)
        self._lines = path.read_text(encoding="utf-8").splitlines()

    def addition(self, key: str, lines: list[str]) -> Addition:
        """Lines below a key, indented as what is there; with the key where the file has
        none."""
        head = next((x for x in self._lines if re.match(rf"{key}\s*:", x)), None)
        if head is None:
            return Addition(self._name, "", (f"{key}:", *(f"  {x}" for x in lines)))
        indent = self._indent(self._lines.index(head))
        return Addition(self._name, head, tuple(f"{indent}{line}" for line in lines))

    def _indent(self, head: int) -> str:
        """The blanks before the first thing below a line."""
        for line in self._lines[head + 1 :]:
            text = line.lstrip(" ")
            if text and not text.startswith("#"):
                blanks = line[: len(line) - len(text)]
                return blanks if blanks or text.startswith("-") else "  "
        return "  "


def fault_of_key(routing_key: str) -> str | None:
    """Why nothing can be published with this routing key; None if it can."""
    if not routing_key:
        return "a message for a topic exchange needs a routing key"
    try:
        size_bytes = len(routing_key.encode())
    except UnicodeEncodeError:
        return "a routing key is text in UTF-8"
    if size_bytes > _LONGEST_BYTES:
        return f"a routing key has at most {_LONGEST_BYTES} bytes, not {size_bytes:,}"
    return None


def additions_for(
    settings: Settings, routing_key: str, body: bytes
) -> Iterator[Addition]:
    """What to add so that such a message is taken: an exchange where its domain has
    none, a queue with its binding, and for a reading the flow and the kind.

    Args:
        routing_key: that no queue is bound for; see :func:`fault_of_key`.
    """
    topology = settings.read(TOPOLOGY)
    words = routing_key.split(".")
    queue = ".".join(words[:2]) if all(words[:2]) else "any." + "-".join(words[:2])
    queue = _free(queue, topology)
    pattern = ".".join([*words[:2], "#"])
    file = _File(settings, TOPOLOGY.name)
    at_home = exchanges_for(topology, routing_key)
    exchange = at_home[0] if at_home else _free_exchange(words[0], topology)
    types = {each.name: each.type for each in topology.exchanges}
    if types.get(exchange) == "direct":
        pattern = routing_key
    if exchange not in types:
        lines = [f"- {{name: {_yaml(exchange)}, type: topic}}"]
        yield file.addition("exchanges", lines)
    yield file.addition("queues", [f"- name: {_yaml(queue)}"])
    yield file.addition("bindings", list(_bindings(topology, exchange, queue, pattern)))
    kind = words[1] if len(words) > 1 else ""
    if _KIND.fullmatch(kind) and (unit := _unit_of(body)) is not None:
        yield _File(settings, QUEUES.name).addition(
            "queues", [f"{_yaml(queue)}: {{flow: readings, kind: {_yaml(kind)}}}"]
        )
        if kind not in settings.read(KINDS).quantities:
            lines = [f"{_yaml(kind)}:", f"  unit: {json.dumps(unit)}", "  field: value"]
            yield _File(settings, KINDS.name).addition("kinds", lines)


def in_the_way(topology: Topology, routing_key: str) -> list[str]:
    """Patterns by which such a message of a device becomes a dead letter, whoever else
    takes it: they are there for names that are nearly those of the mesh."""
    return [
        binding.routing_key
        for binding in topology.bindings
        if binding.exchange == MQTT_EXCHANGE
        and binding.to_exchange
        and topic_matches(binding.routing_key, routing_key)
        and topology.queues_reached(binding.to_exchange, routing_key)
        <= {topology.dead_letter_queue}
    ]


def _bindings(
    topology: Topology, exchange: str, queue: str, pattern: str
) -> Iterator[str]:
    yield f"- exchange: {_yaml(exchange)}"
    yield f"  queue: {_yaml(queue)}"
    yield f"  routing_key: {json.dumps(pattern)}"
    domain = pattern.partition(".")[0]
    of_devices = f"{domain}.#" if domain else pattern
    if not any(
        binding.exchange == MQTT_EXCHANGE
        and binding.to_exchange == exchange
        and topic_matches(binding.routing_key, pattern.removesuffix(".#"))
        for binding in topology.bindings
    ):
        yield f"- exchange: {MQTT_EXCHANGE}"
        yield f"  to_exchange: {_yaml(exchange)}"
        yield f"  routing_key: {json.dumps(of_devices)}"


def _free(name: str, topology: Topology) -> str:
    """A name that no queue has."""
    if name.startswith("amq.") or is_reserved(name):
        name = f"any.{name}"
    taken, number = {each.name for each in topology.all_queues}, 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _free_exchange(word: str, topology: Topology) -> str:
    """A name for an exchange of a domain."""
    reserved = word == "amq" or is_reserved(f"{word}.x")
    name = "others" if reserved or not word else word
    taken = {each.name for each in topology.all_exchanges}
    return name if name not in taken else f"{name}.events"


def _unit_of(body: bytes) -> str | None:
    """The unit of what may be a reading; None if it is none."""
    try:
        record: Any = from_json(body)
    except ValueError:
        return None
    record = record[0] if isinstance(record, list) and record else record
    if isinstance(record, dict):
        unit, record = record.get("unit"), record.get("value")
    else:
        unit = None
    if isinstance(record, bool) or not isinstance(record, int | float):
        return None
    fits = isinstance(unit, str) and 0 < len(unit) <= 64 and unit == unit.strip()  # noqa: PLR2004
    return str(unit) if fits else "1"


def _yaml(text: str) -> str:
    """A text as YAML has it; ``no`` and ``on`` are none without quotes."""
    is_plain = _PLAIN.fullmatch(text) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text)
