"""What a message would meet: queues, handlers, and what their flows have for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meshtasks.amqp.routing import PREDECLARED_EXCHANGES, topic_matches
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

#: Routes that an alert may take: name → receivers. More than one where it depends on
#: labels that only the alert has.
Routes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Reached:
    """A queue that the message reaches.

    Attributes:
        handler: its function, and what that does; empty without a handler.
        details: of its flow, each with the routes of the alert that may come of it.
        partitions: it is made of so many, of which the routing key chooses one.
    """

    queue: str
    flow: str = ""
    handler: str = ""
    does: str = ""
    sinks: tuple[str, ...] = ()
    details: tuple[tuple[Detail, Routes], ...] = ()
    partitions: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain data; every kind of detail is a list of its own."""
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
    """What a message with this routing key would meet.

    Attributes:
        unroutable: no binding matches, and an alternate exchange takes it to the
            dead letters.
        archived_one_in: one record in so many is archived; 0 is none.
        archive_queue: by way of this queue.
    """

    exchange: str
    routing_key: str
    unroutable: bool
    queues: tuple[Reached, ...]
    archived_one_in: int
    archive_queue: str

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"queues": [queue.as_json() for queue in self.queues]}

    def lines(self, urls: Collection[str]) -> Iterator[str]:
        """Lines for a terminal.

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
    """The exchanges at which such a message is at home: those that a binding with
    its first word leads on from, or whose name begins with that word."""
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
    """Whether a message can be published there."""
    return exchange in PREDECLARED_EXCHANGES or any(
        each.name == exchange for each in topology.exchanges
    )


def explain(
    settings: Settings, flows: Flows, exchange: str, routing_key: str
) -> Explanation:
    """Follow a message through the configuration.

    Args:
        exchange: declared in topology.yaml, or predeclared by the broker.

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
            _reached(settings, flows, handlers[queue], routing_key)
            if queue in handlers
            else Reached(queue, partitions=_partitions(settings, queue))
            for queue in sorted(queues)
        ),
        archived_one_in=one_in if is_archived else 0,
        archive_queue=f"{ARCHIVE_EXCHANGE}.{half}" if one_in and is_archived else "",
    )


def _reached(
    settings: Settings, flows: Flows, handler: Handler, routing_key: str
) -> Reached:
    function, policy = handler.handle, settings.read(ALERTS)
    flow = flows.of_queue(settings, handler.queue)
    return Reached(
        handler.queue,
        flow.name,
        f"{function.__module__}.{getattr(function, '__name__', '?')}",
        (function.__doc__ or "").partition("\n")[0],
        tuple(key.name for key in handler.sinks),
        tuple(
            (detail, {} if detail.alert is None else _routes(policy, detail.alert))
            for detail in flow.explain(settings, handler, routing_key)
        ),
        _partitions(settings, handler.queue),
    )


def _partitions(settings: Settings, queue: str) -> int:
    found = settings.read(TOPOLOGY).partitioned.get(queue)
    return found.partitions or 0 if found else 0


def _routes(policy: AlertPolicy, labels: Mapping[str, str]) -> Routes:
    """The routes an alert with these labels may take; it has others besides."""
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
