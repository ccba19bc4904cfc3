"""Follow a message through the configuration: the queues it reaches, their handlers,
and the details of their flows. For a message without a queue, find what to add.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import yaml
from pydantic_core import from_json

from meshtasks.amqp.entities import (
    MQTT_EXCHANGE,
    PREDECLARED_EXCHANGES,
    is_reserved,
    topic_matches,
)
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import (
    ARCHIVE_EXCHANGE,
    PENDING_TIMESERIES,
    TOPOLOGY,
    Topology,
)
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS, AlertPolicy, Route
from meshtasks.flows.contract import Handler
from meshtasks.flows.diagnosis import Detail
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference.handler import run_models
from meshtasks.flows.loading import Flows
from meshtasks.records.kinds import KINDS

#: The routes that an alert may take: receivers by the route's name. There are several
#: if the choice depends on labels that only the alert has.
Routes = Mapping[str, tuple[str, ...]]


#: Kinds that a new queue may have, and YAML texts that need no quotes.
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LONGEST_BYTES = 255


@dataclass(frozen=True, slots=True)
class Reached:
    """A queue that the message reaches.

    Attributes:
        queue: its name.
        flow: name of its flow; empty without a handler.
        handler: module and name of its handler; empty without one.
        does: the first line of the handler's docstring.
        sinks: names of the handler's sinks.
        details: what its flow does with the message, each with the routes of the alert
            that it may cause.
        partitions: number of the queue's partitions, of which the routing key selects
            one; 0 if it has none.
    """

    queue: str
    flow: str = ""
    handler: str = ""
    does: str = ""
    sinks: tuple[str, ...] = ()
    details: tuple[tuple[Detail, Routes], ...] = ()
    partitions: int = 0

    def as_json(self) -> dict[str, Any]:
        """The queue as JSON data; each kind of detail is a list."""
        found: dict[str, Any] = {
            "queue": self.queue,
            "partitions": self.partitions,
            "flow": self.flow,
            "handler": self.handler,
            "does": self.does,
            "sinks": self.sinks,
            "rules": [],
            "workflows": [],
            "alert_routes": {},
        }
        for detail, routes in self.details:
            if not detail.data:
                found["alert_routes"] = routes
                continue
            more = {} if detail.alert is None else {"routes": routes}
            found.setdefault(f"{detail.kind}s", []).append({**detail.data, **more})
        return found


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happens to a message with this routing key.

    Attributes:
        exchange: where it is published; empty for the default exchange.
        routing_key: its routing key.
        unroutable: no binding matches, so an alternate exchange routes it to the
            dead-letter queue.
        queues: the queues that it reaches, by name.
        archived_one_in: one record in this many is archived; 0 means none.
        archive_queue: the queue of the archive that its records take; may be empty.
    """

    exchange: str
    routing_key: str
    unroutable: bool
    queues: tuple[Reached, ...]
    archived_one_in: int
    archive_queue: str

    def as_json(self) -> dict[str, Any]:
        """The explanation as JSON data."""
        return asdict(self) | {"queues": [queue.as_json() for queue in self.queues]}

    def lines(self, urls: Collection[str]) -> Iterator[str]:
        """The explanation as lines of text.

        Args:
            urls: names of the receivers that have a URL.
        """
        way = f"on exchange {self.exchange}" if self.exchange else "straight to a queue"
        yield f"{self.routing_key} {way}"
        if self.unroutable:
            yield "  matches no binding: it becomes a dead letter"
            return
        for queue in self.queues:
            yield from _lines(queue, urls)
        one_in = self.archived_one_in
        share = "every record" if one_in == 1 else f"one record in {one_in}"
        archived = f"{share}, by way of {self.archive_queue}" if one_in else "nothing"
        yield f"  archive     {archived}"


def exchanges_for(topology: Topology, routing_key: str) -> list[str]:
    """The exchanges where a message with this routing key belongs: those with a
    matching binding that begins with its first word, else those whose name begins with
    it."""
    domain = routing_key.partition(".")[0]
    named = {exchange.name for exchange in topology.exchanges}
    bound = {
        binding.exchange
        for binding in topology.bindings
        if binding.exchange in named
        and binding.routing_key.partition(".")[0] == domain
        and topic_matches(binding.routing_key, routing_key)
    }
    return sorted(bound or {name for name in named if name.partition(".")[0] == domain})


def is_known(topology: Topology, exchange: str) -> bool:
    """Whether a message can be published to the exchange."""
    return exchange in PREDECLARED_EXCHANGES or any(
        each.name == exchange for each in topology.exchanges
    )


def explain(
    settings: Settings, flows: Flows, exchange: str, routing_key: str
) -> Explanation:
    """Follow a message through the configuration.

    Args:
        settings: the configuration.
        flows: all flows.
        exchange: name of an exchange in topology.yaml or of the broker; empty for the
            default exchange.
        routing_key: the routing key of the message.

    Raises:
        ConfigError: a file cannot be used.
    """
    topology, archive = settings.read(TOPOLOGY), settings.read(ARCHIVE)
    handlers = flows.handlers(settings)
    queues = topology.queues_reached(exchange, routing_key)
    one_in = next(
        (
            selection.sample
            for selection in archive.select
            if topic_matches(selection.pattern, routing_key)
        ),
        0,
    )
    unarchived = {run_models.queue, PENDING_TIMESERIES}
    is_archived = exchange != ARCHIVE_EXCHANGE and any(
        name in handlers and name not in unarchived for name in queues
    )
    half = archive.class_of(routing_key.partition(".")[0])
    return Explanation(
        exchange,
        routing_key,
        unroutable=queues <= {topology.dead_letter_queue},
        queues=tuple(
            _reached(settings, flows, queue, handlers.get(queue), routing_key)
            for queue in sorted(queues)
        ),
        archived_one_in=one_in if is_archived else 0,
        archive_queue=f"{ARCHIVE_EXCHANGE}.{half}" if one_in and is_archived else "",
    )


def _reached(
    settings: Settings,
    flows: Flows,
    queue: str,
    handler: Handler | None,
    routing_key: str,
) -> Reached:
    partitioned = settings.read(TOPOLOGY).partitioned.get(queue)
    partitions = len(partitioned.names) if partitioned else 0
    if handler is None:
        return Reached(queue, partitions=partitions)
    function, policy = handler.handle, settings.read(ALERTS)
    flow = flows.of_queue(settings, queue)
    return Reached(
        queue,
        flow.name,
        f"{function.__module__}.{getattr(function, '__name__', '?')}",
        (function.__doc__ or "").partition("\n")[0],
        tuple(key.name for key in handler.sinks),
        tuple(
            (detail, {} if detail.alert is None else _routes(policy, detail.alert))
            for detail in flow.explain(settings, handler, routing_key)
        ),
        partitions,
    )


def _routes(policy: AlertPolicy, labels: Mapping[str, str]) -> Routes:
    """The routes that an alert with these labels may take. It has more labels."""
    found: dict[str, tuple[str, ...]] = {}
    for route in policy.routes:
        known = [matcher for matcher in route.match if matcher.name in labels]
        if not all(matcher.matches(labels) for matcher in known):
            continue
        found[_named(route, len(known))] = route.receivers
        if len(known) == len(route.match) and not route.also_next:
            break
    return found


def _named(route: Route, known: int) -> str:
    if known == len(route.match):
        return route.name
    return f"{route.name} (if {', '.join(map(str, route.match))})"


def _lines(reached: Reached, urls: Collection[str]) -> Iterator[str]:
    parts = reached.partitions
    chosen = f", one of {parts} partitions by the routing key" if parts else ""
    yield f"  queue       {reached.queue}{chosen}"
    if not reached.handler:
        yield "    no handler: whoever else consumes it"
        return
    yield f"    flow      {reached.flow}"
    yield f"    handler   {reached.handler}: {reached.does}"
    yield f"    sinks     {', '.join(reached.sinks) or 'none'}"
    for detail, routes in reached.details:
        if detail.text:
            yield f"    {detail.kind:<9} {detail.text}"
        label = "  alert  " if detail.text else f"{detail.kind:<9}"
        for name, receivers in routes.items():
            named = (
                each if each in urls else f"{each} (has no URL)" for each in receivers
            )
            yield f"    {label} route {name}: {', '.join(named)}"


class Addition(NamedTuple):
    """Lines to add to a configuration file.

    Attributes:
        file: its name in the configuration directory.
        below: the line of the file after which they are inserted; empty to append them.
        lines: the lines, indented as needed.
    """

    file: str
    below: str
    lines: tuple[str, ...]


def _addition(settings: Settings, name: str, key: str, *lines: str) -> Addition:
    """Lines to insert below a key of a file, indented like the lines that follow it. If
    the file lacks the key, the lines contain it."""
    written = settings.env.config_file(name).read_text(encoding="utf-8").splitlines()
    head = next((x for x in written if re.match(rf"{key}\s*:", x)), None)
    if head is None:
        return Addition(name, "", (f"{key}:", *(f"  {line}" for line in lines)))
    indent = "  "
    for line in written[written.index(head) + 1 :]:
        text = line.lstrip(" ")
        if text and not text.startswith("#"):
            blanks = line[: len(line) - len(text)]
            indent = blanks if blanks or text.startswith("-") else indent
            break
    return Addition(name, head, tuple(f"{indent}{line}" for line in lines))


def fault_of_key(routing_key: str) -> str | None:
    """Why a routing key cannot be used; None if it can."""
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
    """What to add so that a message reaches a queue: an exchange if its domain has
    none, a queue with its binding, and for a reading the flow and the kind.

    Args:
        routing_key: a key that no queue is bound for and that :func:`fault_of_key`
            accepts.
        body: the message; it shows whether its records are readings.
    """
    topology = settings.read(TOPOLOGY)
    words = routing_key.split(".")
    queue = ".".join(words[:2]) if all(words[:2]) else "any." + "-".join(words[:2])
    queue = _free(queue, topology)
    pattern = ".".join([*words[:2], "#"])
    at_home = exchanges_for(topology, routing_key)
    exchange = at_home[0] if at_home else _free_exchange(words[0], topology)
    types = topology.exchange_types
    if types.get(exchange) == "direct":
        pattern = routing_key
    if exchange not in types:
        line = f"- {{name: {_yaml(exchange)}, type: topic}}"
        yield _addition(settings, TOPOLOGY.name, "exchanges", line)
    yield _addition(settings, TOPOLOGY.name, "queues", f"- name: {_yaml(queue)}")
    bindings = _bindings(topology, exchange, queue, pattern)
    yield _addition(settings, TOPOLOGY.name, "bindings", *bindings)
    kind = words[1] if len(words) > 1 else ""
    if _KIND.fullmatch(kind) and (unit := _unit_of(body)) is not None:
        line = f"{_yaml(queue)}: {{flow: readings, kind: {_yaml(kind)}}}"
        yield _addition(settings, QUEUES.name, "queues", line)
        if kind not in settings.read(KINDS).quantities:
            lines = [f"{_yaml(kind)}:", f"  unit: {json.dumps(unit)}", "  field: value"]
            yield _addition(settings, KINDS.name, "kinds", *lines)


def in_the_way(topology: Topology, routing_key: str) -> list[str]:
    """Patterns of bindings that make a dead letter of a device's message even if a
    queue takes it. They exist to report names that are nearly those of the mesh."""
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
    """A queue name that is not in use."""
    if name.startswith("amq.") or is_reserved(name):
        name = f"any.{name}"
    taken, number = {each.name for each in topology.all_queues}, 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _free_exchange(word: str, topology: Topology) -> str:
    reserved = word == "amq" or is_reserved(f"{word}.x")
    name = "others" if reserved or not word else word
    taken = {each.name for each in topology.all_exchanges}
    return name if name not in taken else f"{name}.events"


def _unit_of(body: bytes) -> str | None:
    """The unit of a message that may be a reading, ``"1"`` if it has none; None for
    another message."""
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
    """A text as a YAML scalar; quoted if YAML would read it as another type
    (``no``)."""
    is_plain = _PLAIN.fullmatch(text) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text)
