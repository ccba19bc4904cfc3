"""What a message would meet: queues, handlers, sinks, rules, webhooks, alerts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meshtasks.amqp.routing import PREDECLARED_EXCHANGES, topic_matches
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY, Topology
from meshtasks.cli.config_crosscheck import EVENTS, REQUESTS_QUEUE, Handlers
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS, AlertPolicy, Route
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.inference.messages import InferenceResult
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.records.alert import Alert, Severity
from meshtasks.records.models import Metric, SensorReading
from meshtasks.rules.config import RULES, Rule


@dataclass(frozen=True, slots=True)
class Watching:
    """A rule that looks at the message's records.

    Attributes:
        looks_at: what narrows it: sensor ids, or the metric's name, field and tags.
        routes: of its alerts: name → receivers. More than one where it depends on
            labels that only the alert has.
    """

    name: str
    severity: Severity
    type: str
    looks_at: str
    routes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Calling:
    """A workflow that the message's records may start.

    Attributes:
        when: the fields that its conditions ask for.
    """

    name: str
    url: str
    when: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """A queue that the message reaches.

    Attributes:
        handler: its function, and what that does; empty without a handler.
        alert_routes: for alerts: name → receivers, as of a rule.
    """

    queue: str
    handler: str
    does: str
    sinks: tuple[str, ...]
    rules: tuple[Watching, ...]
    workflows: tuple[Calling, ...]
    alert_routes: Mapping[str, tuple[str, ...]]


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
        return asdict(self)


def exchanges_for(topology: Topology, routing_key: str) -> list[str]:
    """The exchanges at which such a message is at home: those that a binding with
    its first word leads on from, or whose name begins with that word."""
    domain = routing_key.partition(".")[0]
    named = {each.name for each in topology.exchanges}
    bound = {
        binding.exchange
        for binding in topology.bindings
        if binding.exchange in named
        and binding.routing_key.partition(".")[0] == domain
        and topic_matches(binding.routing_key, routing_key)
    }
    return sorted(bound or {name for name in named if name.partition(".")[0] == domain})


def explain(
    settings: Settings, handlers: Handlers, exchange: str, routing_key: str
) -> Explanation:
    """Follow a message through the configuration.

    Args:
        exchange: declared in topology.yaml, or predeclared by the broker.
    """
    topology = settings.read(TOPOLOGY)
    queues = topology.queues_reached(exchange, routing_key)
    archive = settings.read(ARCHIVE)
    one_in = next(
        (
            selection.sample
            for selection in archive.select
            if topic_matches(selection.pattern, routing_key)
        ),
        0,
    )
    archives = (
        any(name in handlers and name != REQUESTS_QUEUE for name in queues)
        and exchange != ARCHIVE_EXCHANGE
    )
    half = archive.class_of(routing_key.partition(".")[0])
    return Explanation(
        exchange,
        routing_key,
        unroutable=queues <= {topology.dead_letter_queue},
        queues=tuple(
            _reached(settings, handlers, queue, routing_key) for queue in sorted(queues)
        ),
        archived_one_in=one_in if archives else 0,
        archive_queue=f"{ARCHIVE_EXCHANGE}.{half}" if one_in and archives else "",
    )


def is_known(topology: Topology, exchange: str) -> bool:
    """Whether a message can be published there."""
    return exchange in PREDECLARED_EXCHANGES or any(
        each.name == exchange for each in topology.exchanges
    )


def _reached(
    settings: Settings, handlers: Handlers, queue: str, routing_key: str
) -> Reached:
    handler = handlers.get(queue)
    if handler is None:
        return Reached(queue, "", "", (), (), (), {})
    function = handler.handle
    workflows = handler.record in EVENTS
    return Reached(
        queue,
        f"{function.__module__}.{getattr(function, '__name__', '?')}",
        (function.__doc__ or "").partition("\n")[0],
        handler.sink_names,
        tuple(_rules(settings, handler.record, routing_key)),
        tuple(_workflows(settings, routing_key)) if workflows else (),
        _routes_of_alert(settings, routing_key) if handler.record is Alert else {},
    )


def _rules(settings: Settings, record: object, routing_key: str) -> Iterator[Watching]:
    if record is InferenceResult:
        model = routing_key.split(".")[2:3]
        steps = settings.read(MODELS).models.get(".".join(model))
        for alert in steps.alerts if steps else ():
            yield _watching(settings.read(ALERTS), alert, f"field {alert.field}")
        return
    for rule in settings.read(RULES).rules:
        if not topic_matches(rule.routing_key, routing_key):
            continue
        if rule.metric is None and record is SensorReading:
            sensors = "" if rule.sensors == ("*",) else ", ".join(rule.sensors)
            looks_at = f"sensors {sensors}" if sensors else "every sensor"
            yield _watching(settings.read(ALERTS), rule, looks_at)
        elif rule.metric is not None and record is Metric:
            tags = "".join(f", {tag} {value}" for tag, value in rule.tags.items())
            looks_at = f"metric {rule.metric}, field {rule.field}{tags}"
            yield _watching(settings.read(ALERTS), rule, looks_at)


def _watching(policy: AlertPolicy, rule: Rule, looks_at: str) -> Watching:
    source = f"rules.{rule.name}"
    labels = {"severity": rule.severity, "source": source, "rule": rule.name}
    routes = _routes(policy, labels)
    return Watching(rule.name, rule.severity, rule.type, looks_at, routes)


def _workflows(settings: Settings, routing_key: str) -> Iterator[Calling]:
    for workflow in settings.read(WORKFLOWS).workflows:
        if topic_matches(workflow.routing_key, routing_key):
            webhook = workflow.webhook
            base = settings.env.n8n_url.rstrip("/") if webhook.is_path else ""
            when = tuple(condition.field for condition in workflow.when)
            yield Calling(workflow.name, base + webhook.url, when)


def _routes_of_alert(
    settings: Settings, routing_key: str
) -> Mapping[str, tuple[str, ...]]:
    """Of an alert that was published under ``alerts.<severity>.<source>``."""
    _, severity, source = (*routing_key.split(".", 2), "", "")[:3]
    known = {"severity": severity, "source": source}
    return _routes(
        settings.read(ALERTS), {key: value for key, value in known.items() if value}
    )


def _routes(
    policy: AlertPolicy, labels: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    """The routes an alert with these labels may take; it has others besides."""
    found: dict[str, tuple[str, ...]] = {}
    for route in policy.routes:
        known = [each for each in route.match if each.name in labels]
        if not all(each.matches(labels) for each in known):
            continue
        found[_named(route, len(known))] = route.receivers
        if len(known) == len(route.match) and not route.also_next:
            break
    return found


def _named(route: Route, known: int) -> str:
    if known == len(route.match):
        return route.name
    return f"{route.name} (if {', '.join(map(str, route.match))})"
