"""Compares a broker with the topology."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshtasks.amqp.entities import (
    Binding,
    DerivedQueue,
    Queue,
    RetryQueue,
    is_reserved,
    queue_of,
)
from meshtasks.amqp.management import Live, LiveExchange, LiveQueue
from meshtasks.amqp.topology import PENDING_TIMESERIES, Topology


@dataclass(frozen=True, slots=True)
class Drift:
    """Findings of a comparison, one line each.

    Attributes:
        differences: policies that lose messages; entities that are missing or differ;
            bindings that are not in topology.yaml.
        notes: bindings and policies that others added; they are not errors.
    """

    differences: tuple[str, ...]
    notes: tuple[str, ...]


def compare(topology: Topology, live: Live) -> Drift:
    """Compare the whole topology with the entities of a virtual host."""
    harmful, harmless = _policies(topology, live)
    differences = [
        *harmful,
        *_exchange_differences(topology, live),
        *_queue_differences(topology, live),
        *_binding_differences(topology, live),
    ]
    notes = [*_foreign_bindings(topology, live), *harmless]
    return Drift(tuple(differences), tuple(notes))


def _exchange_differences(topology: Topology, live: Live) -> Iterator[str]:
    found = {exchange.name: exchange for exchange in live.exchanges}
    for exchange in topology.all_exchanges:
        what = f"exchange {exchange.name}"
        if has := found.get(exchange.name):
            should = {"type": exchange.type, "internal": False}
            yield from _unequal(
                what, should, {key: getattr(has, key) for key in should}
            )
            yield from _lifetime(what, has)
            yield from _unequal(what, exchange.arguments, has.arguments)
        else:
            yield f"{what}: missing"


def _queue_differences(topology: Topology, live: Live) -> Iterator[str]:
    found = {queue.name: queue for queue in live.queues}
    for queue in topology.all_queues:
        what = f"queue {queue.name}"
        if has := found.get(queue.name):
            yield from _lifetime(what, has)
            yield from _unequal(what, queue.arguments, has.arguments)
        else:
            yield f"{what}: missing"
    for name in found:
        if _is_left_over(topology, name):
            yield (
                f"queue {name}: of partitions that topology.yaml does not have; "
                "`meshtasks topology apply` empties and deletes it"
            )


def _is_left_over(topology: Topology, name: str) -> bool:
    """Whether a queue is a former partition, or the former single queue of a queue that
    has partitions now."""
    if name in {queue.name for queue in topology.all_queues}:
        return False
    return queue_of(name) in topology.queue_names


def _binding_differences(topology: Topology, live: Live) -> Iterator[str]:
    wanted = set(topology.all_bindings)
    for binding in topology.all_bindings:
        if binding not in live.bindings:
            yield f"binding {binding.label}: missing"
    for binding in live.bindings:
        if binding not in wanted and _is_ours(topology, binding):
            yield f"binding {binding.label}: not in topology.yaml"


def _foreign_bindings(topology: Topology, live: Live) -> Iterator[str]:
    ours = {exchange.name for exchange in topology.all_exchanges}
    for binding in live.bindings:
        if binding.destination.startswith("amq."):  # named by the broker: of a tap
            continue
        if binding.exchange in ours and not _is_ours(topology, binding):
            yield f"binding {binding.label}: added by others"


def _policies(topology: Topology, live: Live) -> tuple[list[str], list[str]]:
    """What policies set on our queues: what loses messages, and the rest."""
    harmful, harmless = [], []
    ours = {queue.name: queue for queue in topology.all_queues}
    for has in live.queues:
        if has.name not in ours:
            continue
        rest = []
        for key, value in sorted(has.effective_policy_definition.items()):
            if harm := _harm(ours[has.name], key, value):
                harmful.append(
                    f"queue {has.name}: {has.policies} sets {key}={value}, {harm}; "
                    "change its pattern to spare this queue, or clear it"
                )
            else:
                rest.append(f"{key}={value}")
        if rest:
            harmless.append(f"queue {has.name}: a policy adds {', '.join(rest)}")
    return harmful, harmless


def _harm(queue: Queue | DerivedQueue | RetryQueue, key: str, value: Any) -> str:
    """What a setting of a policy does to the messages of a queue; empty if it does no
    harm, or nothing.

    Of two limits RabbitMQ takes the lower, and the overflow strategy of the policy.
    Otherwise the argument of the queue overrides the policy. Queues of published
    messages dead-letter what exceeds a limit, or the publisher is refused.
    """
    own = queue.arguments.get(f"x-{key}")
    dead_letters = "x-dead-letter-exchange" in queue.arguments
    may_wait = isinstance(queue, RetryQueue) or queue.name == PENDING_TIMESERIES
    is_lower = own is None or (isinstance(own, int) and value < own)
    harm = ""
    match key:
        case "expires":
            harm = "which deletes it with its messages while no worker uses it"
        case "overflow" if own not in {None, value}:
            harm = "with which the broker may lose what it dead-letters"
        case "dead-letter-routing-key" if dead_letters and own is None:
            harm = "which leads its messages to another queue, or to none"
        case "message-ttl" | "max-length" | "max-length-bytes" | "delivery-limit" if (
            is_lower and not dead_letters
        ):
            harm = "and what exceeds it is lost without a trace"
        case "message-ttl" if is_lower and may_wait:
            harm = "which ends the wait of its messages too early"
        case "max-length" | "max-length-bytes" if is_lower and may_wait:
            harm = "and refuses messages that can wait nowhere else"
    return harm


def _is_ours(topology: Topology, binding: Binding) -> bool:
    """Whether a binding leads to an entity of the mesh, or to a former partition."""
    if is_reserved(binding.exchange) or _is_left_over(topology, binding.destination):
        return True
    ours = topology.all_queues if binding.queue else topology.all_exchanges
    return binding.destination in {item.name for item in ours}


def _lifetime(what: str, has: LiveExchange | LiveQueue) -> Iterator[str]:
    if not has.durable:
        yield f"{what}: does not outlive the broker, should be durable"
    if has.auto_delete:
        yield f"{what}: deletes itself when unused, should not"


def _unequal(
    what: str, should: Mapping[str, object], has: Mapping[str, object]
) -> Iterator[str]:
    for key in sorted(should.keys() | has.keys()):
        if has.get(key) != should.get(key):
            yield f"{what}: {key} is {_text(has, key)}, should be {_text(should, key)}"


def _text(values: Mapping[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
