"""What `topology check` calls a difference, what it only notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshtasks.amqp.drift import compare
from meshtasks.amqp.entities import Binding
from meshtasks.amqp.management import Live, LiveExchange, LiveQueue
from meshtasks.amqp.topology import Topology
from tests.support.topologies import small_document

TOPOLOGY = Topology.model_validate(small_document())


@pytest.fixture
def live() -> Live:
    """A broker with exactly the small topology."""
    kept = {"durable": True, "auto_delete": False}
    return Live(
        [
            LiveExchange(name=e.name, type=e.type, arguments=e.arguments, **kept)
            for e in TOPOLOGY.all_exchanges
        ],
        [
            LiveQueue(name=q.name, arguments=q.arguments, **kept)
            for q in TOPOLOGY.all_queues
        ],
        list(TOPOLOGY.all_bindings),
    )


def test_a_broker_that_has_exactly_the_topology_does_not_differ(live: Live) -> None:
    drift = compare(TOPOLOGY, live)

    assert drift.differences == ()
    assert drift.notes == ()


def test_everything_missing_is_named(live: Live) -> None:
    empty = Live([], [], [])

    differences = compare(TOPOLOGY, empty).differences

    assert len(differences) == len(live.exchanges + live.queues + live.bindings)
    assert "exchange sensors: missing" in differences
    assert "queue retry.5: missing" in differences
    assert (
        "binding sensors → queue sensors.temperature ('sensors.temperature.#'): missing"
        in differences
    )


def _retype(live: Live) -> None:
    live.exchanges[0].type = "direct"


def _drop_alternate(live: Live) -> None:
    live.exchanges[0].arguments = {}


def _lower_limit(live: Live) -> None:
    live.queues[0].arguments |= {"x-delivery-limit": 3}


def _add_length_limit(live: Live) -> None:
    live.queues[0].arguments |= {"x-max-length": 10}


def _make_transient(live: Live) -> None:
    live.queues[0].durable = False


def _bind_in_addition(live: Live) -> None:
    live.bindings.append(
        Binding(exchange="sensors", queue="commands", routing_key="sensors.#")
    )


def _bind_from_elsewhere(live: Live) -> None:
    live.bindings.append(
        Binding(exchange="theirs", to_exchange="sensors", routing_key="#")
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_retype, "exchange sensors: type is 'direct', should be 'topic'"),
        (
            _drop_alternate,
            "exchange sensors: alternate-exchange is absent, should be 'unrouted'",
        ),
        (
            _lower_limit,
            "queue sensors.temperature: x-delivery-limit is 3, should be 20",
        ),
        (
            _add_length_limit,
            "queue sensors.temperature: x-max-length is 10, should be absent",
        ),
        (
            _make_transient,
            "queue sensors.temperature: does not outlive the broker, should be durable",
        ),
        (
            _bind_in_addition,
            "binding sensors → queue commands ('sensors.#'): not in topology.yaml",
        ),
        (
            _bind_from_elsewhere,
            "binding theirs → exchange sensors ('#'): not in topology.yaml",
        ),
    ],
)
def test_a_difference_is_named(
    live: Live, change: Callable[[Live], None], line: str
) -> None:
    change(live)

    assert compare(TOPOLOGY, live).differences == (line,)


def test_a_queue_of_somebody_elses_on_our_exchange_is_only_noted(live: Live) -> None:
    live.bindings.append(Binding(exchange="sensors", queue="n8n", routing_key="#"))

    drift = compare(TOPOLOGY, live)

    assert drift.differences == ()
    assert drift.notes == ("binding sensors → queue n8n ('#'): added by others",)


def test_the_queue_of_a_tap_is_not_mentioned(live: Live) -> None:
    tap = Binding(exchange="sensors", queue="amq.gen-x", routing_key="#")
    live.bindings.append(tap)

    assert compare(TOPOLOGY, live).notes == ()


def test_what_others_do_among_themselves_is_not_mentioned(live: Live) -> None:
    live.bindings.append(Binding(exchange="theirs", queue="theirs", routing_key="#"))

    drift = compare(TOPOLOGY, live)

    assert drift.differences == ()
    assert drift.notes == ()


def test_a_policy_on_one_of_our_queues_is_noted(live: Live) -> None:
    live.queues[0].effective_policy_definition = {"max-length": 10}

    drift = compare(TOPOLOGY, live)

    assert drift.differences == ()
    assert drift.notes == ("queue sensors.temperature: a policy adds max-length=10",)


@pytest.mark.parametrize(
    ("queue", "settings", "harm"),
    [
        ("dead.letter.queue", {"message-ttl": 9}, "is lost without a trace"),
        ("dead.letter.queue", {"max-length": 9}, "is lost without a trace"),
        ("dead.letter.queue", {"max-length-bytes": 9}, "is lost without a trace"),
        ("dead.letter.queue", {"delivery-limit": 9}, "is lost without a trace"),
        ("commands.answers", {"message-ttl": 9}, "is lost without a trace"),
        ("retry.5", {"message-ttl": 4_999}, "ends the wait of its messages too early"),
        ("retry.5", {"max-length": 9}, "refuses messages that can wait nowhere else"),
        ("retry.5", {"dead-letter-routing-key": "x"}, "leads its messages to another"),
        ("pending.timeseries", {"message-ttl": 9}, "ends the wait of its messages"),
        ("pending.timeseries", {"max-length-bytes": 9}, "refuses messages"),
        ("sensors.temperature", {"expires": 9}, "deletes it with its messages"),
        ("sensors.temperature", {"overflow": "drop-head"}, "the broker may lose what"),
    ],
)
def test_a_policy_that_loses_messages_is_a_difference(
    live: Live, queue: str, settings: dict[str, Any], harm: str
) -> None:
    has = next(each for each in live.queues if each.name == queue)
    has.policy, has.operator_policy = "tidy", "limits"
    has.effective_policy_definition = settings

    (line,) = compare(TOPOLOGY, live).differences

    ((key, value),) = settings.items()
    policies = "policy 'tidy' or operator policy 'limits'"
    assert line.startswith(f"queue {queue}: {policies} sets {key}={value}, ")
    assert harm in line


@pytest.mark.parametrize(
    ("queue", "settings"),
    [
        ("retry.5", {"message-ttl": 5_000}),
        ("retry.5", {"overflow": "reject-publish"}),
        ("commands.answers", {"message-ttl": 1_000_000_000}),
        ("pending.timeseries", {"max-length-bytes": 1 << 30}),
        ("pending.timeseries", {"delivery-limit": 9}),  # they become dead letters
        ("sensors.temperature", {"dead-letter-exchange": "theirs"}),
        ("sensors.temperature", {"dead-letter-routing-key": "theirs"}),
        ("sensors.temperature", {"message-ttl": 9}),
        ("dead.letter.queue", {"queue-leader-locator": "balanced"}),
    ],
)
def test_a_policy_that_the_topology_outdoes_is_only_noted(
    live: Live, queue: str, settings: dict[str, Any]
) -> None:
    has = next(each for each in live.queues if each.name == queue)
    has.policy, has.effective_policy_definition = "usual", settings

    drift = compare(TOPOLOGY, live)

    assert (drift.differences, len(drift.notes)) == ((), 1)
