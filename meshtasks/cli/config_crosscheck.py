"""What the files of config/ say of each other, and cannot know by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.routing import patterns_overlap
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY, Topology
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.contract import Handler
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.records.models import (
    AutomationTrigger,
    Metric,
    Motion,
    SensorReading,
    StateChange,
)
from meshtasks.rules.config import RULES

Handlers = Mapping[str, Handler]

REQUESTS_QUEUE = "ai.inference.requests"

#: Records that start workflows.
EVENTS = (Motion, StateChange, AutomationTrigger)


class Doubt(NamedTuple):
    """Something that can be read, and still is not meant.

    Attributes:
        file: name of the file in config/.
        key: dotted path of the value.
    """

    level: Literal["warning", "note"]
    file: str
    key: str
    text: str


def doubts(settings: Settings, handlers: Handlers) -> Iterator[Doubt]:
    """All of them; the files themselves are without faults."""
    yield from _of_queues(settings.read(TOPOLOGY), handlers)
    yield from _of_rules(settings, handlers)
    yield from _of_workflows(settings, handlers)
    yield from _of_archive(settings, handlers)
    yield from _of_models(settings)
    yield from _of_alerts(settings)


def queues_of(handlers: Handlers, *records: object) -> set[str]:
    """The queues whose handlers take one of these records."""
    return {queue for queue, each in handlers.items() if each.record in records}


def _of_queues(topology: Topology, handlers: Handlers) -> Iterator[Doubt]:
    for place, queue in enumerate(topology.queues):
        if queue.name not in topology.domain_queues:
            continue
        key = f"queues.{place}.name"
        if queue.name not in handlers:
            text = (
                f"no handler for {queue.name}: a worker started without -Q leaves it "
                "alone, so somebody else must consume it"
            )
            yield Doubt("note", "topology.yaml", key, text)
        if not any(binding.queue == queue.name for binding in topology.bindings):
            text = f"no binding leads to {queue.name}: nothing arrives there"
            yield Doubt("warning", "topology.yaml", key, text)
    for name in sorted(handlers.keys() - topology.queue_names):
        text = f"{name} has a handler, but is not declared: it is not consumed"
        yield Doubt("warning", "topology.yaml", "queues", text)


def _of_rules(settings: Settings, handlers: Handlers) -> Iterator[Doubt]:
    topology = settings.read(TOPOLOGY)
    for place, rule in enumerate(settings.read(RULES).rules):
        record, what = (
            (SensorReading, "readings") if rule.metric is None else (Metric, "metrics")
        )
        queues = queues_of(handlers, record)
        yield from _unmatched(
            rule.routing_key,
            topology,
            queues,
            Doubt(
                "warning",
                "rules.yaml",
                f"rules.{place}.routing_key",
                f"the rule {rule.name} watches nothing: {rule.routing_key} matches no "
                f"routing key of {what} ({', '.join(sorted(queues))})",
            ),
        )


def _of_workflows(settings: Settings, handlers: Handlers) -> Iterator[Doubt]:
    queues = queues_of(handlers, *EVENTS)
    for place, workflow in enumerate(settings.read(WORKFLOWS).workflows):
        yield from _unmatched(
            workflow.routing_key,
            settings.read(TOPOLOGY),
            queues,
            Doubt(
                "warning",
                "workflows.yaml",
                f"workflows.{place}.routing_key",
                f"nothing starts {workflow.name}: {workflow.routing_key} matches no "
                f"routing key of {', '.join(sorted(queues))}",
            ),
        )


def _of_archive(settings: Settings, handlers: Handlers) -> Iterator[Doubt]:
    topology, policy = settings.read(TOPOLOGY), settings.read(ARCHIVE)
    queues = {  # those of the archive take every key
        binding.queue
        for binding in topology.bindings
        if binding.queue in handlers and binding.exchange != ARCHIVE_EXCHANGE
    }
    for place, selection in enumerate(policy.select):
        yield from _unmatched(
            selection.pattern,
            topology,
            queues,
            Doubt(
                "warning",
                "archive.yaml",
                f"select.{place}.pattern",
                f"{selection.pattern} matches no routing key of the mesh",
            ),
        )
    alternates = {exchange.alternate for exchange in topology.exchanges}
    domains = {
        binding.routing_key.partition(".")[0]
        for binding in topology.bindings
        if binding.destination not in alternates  # nobody takes what comes there
    } | {exchange.name for exchange in topology.exchanges}
    for domain in sorted(policy.metrics - domains):
        text = f"no routing key of the mesh begins with {domain}"
        yield Doubt("warning", "archive.yaml", "metrics", text)


def _of_models(settings: Settings) -> Iterator[Doubt]:
    for name, steps in settings.read(MODELS).models.items():
        if not (steps.tags or steps.scores or steps.alerts):
            text = (
                f"the model {name} has no steps: its results are points of ok and "
                "latency_ms, as they are without this entry"
            )
            yield Doubt("warning", "models.yaml", f"models.{name}", text)
    limit_seconds = settings.read(QUEUES).for_queue(REQUESTS_QUEUE).time_limit_seconds
    answer_seconds = settings.read(MODELS).answer_timeout_seconds
    if answer_seconds > limit_seconds / 2:
        text = (
            f"a model may take {answer_seconds:g} s, more than half of the "
            f"{limit_seconds:g} s that a batch of {REQUESTS_QUEUE} may take "
            "(time_limit_seconds in queues.yaml): it would be cut off"
        )
        yield Doubt("warning", "models.yaml", "answer_timeout_seconds", text)


def _of_alerts(settings: Settings) -> Iterator[Doubt]:
    policy, urls = settings.read(ALERTS), settings.env.receivers
    used = {name for route in policy.routes for name in route.receivers}
    for place, name in enumerate(policy.receivers):
        key = f"receivers.{place}"
        if name not in used:
            yield Doubt("warning", "alerts.yaml", key, f"no route has receiver {name}")
        elif name not in urls:
            text = (
                f"receiver {name} has no URL and is left out; "
                f"set MESH_RECEIVERS__{name.upper()}"
            )
            yield Doubt("note", "alerts.yaml", key, text)


def _unmatched(
    pattern: str, topology: Topology, queues: Collection[str | None], doubt: Doubt
) -> Iterable[Doubt]:
    """The doubt, if no message of these queues can have a key like the pattern."""
    types = {exchange.name: exchange.type for exchange in topology.exchanges}
    for binding in topology.bindings:
        if binding.queue not in queues:
            continue
        # a fanout takes every key; those of its own begin with its name
        is_fanout = types.get(binding.exchange) == "fanout"
        key = f"{binding.exchange}.#" if is_fanout else binding.routing_key
        if patterns_overlap(pattern, key):
            return ()
    return (doubt,)
