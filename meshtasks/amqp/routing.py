"""Which queues a published message reaches, as RabbitMQ would route it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache

from meshtasks.amqp.entities import Binding, Exchange

#: Where the broker's MQTT plugin publishes what devices send.
MQTT_EXCHANGE = "amq.topic"
#: Exchanges that every RabbitMQ virtual host has, with their types. A binding may
#: start at one; nobody may declare them.
PREDECLARED_EXCHANGES = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    MQTT_EXCHANGE: "topic",
}


def tail_of(routing_key: str) -> str:
    """Words after ``domain.kind``: ``living_room`` of
    ``sensors.temperature.living_room``; empty when there are none."""
    return ".".join(routing_key.split(".")[2:])


def queues_reached(
    exchanges: Iterable[Exchange],
    bindings: Sequence[Binding],
    exchange: str,
    routing_key: str,
) -> frozenset[str]:
    """Names of the queues that get a message published to an exchange with a name.

    Bindings between exchanges are followed, and alternate exchanges where no
    binding matches.

    Args:
        exchanges: those that were declared.
        bindings: all that there are.
    """
    declared = {item.name: item for item in exchanges}
    types = PREDECLARED_EXCHANGES | {name: x.type for name, x in declared.items()}
    queues: set[str] = set()
    seen: set[str] = set()
    ahead = [exchange]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        matching = [
            binding
            for binding in bindings
            if binding.exchange == name and _matches(types[name], binding, routing_key)
        ]
        queues |= {binding.queue for binding in matching if binding.queue}
        ahead += [b.to_exchange for b in matching if b.to_exchange]
        if not matching and name in declared and declared[name].alternate:
            ahead.append(declared[name].alternate or "")
    return frozenset(queues)


def _matches(exchange_type: str, binding: Binding, routing_key: str) -> bool:
    match exchange_type:
        case "fanout":
            return True
        case "topic":
            return topic_matches(binding.routing_key, routing_key)
        case _:
            return binding.routing_key == routing_key


@lru_cache(maxsize=16_384)
def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange would route ``routing_key`` by ``pattern``.

    Words are separated by dots; ``*`` stands for exactly one word, ``#`` for any
    number of words, none included (AMQP 0-9-1, section 3.1.3.3). As in RabbitMQ an
    empty routing key has no words, and a word may be empty (``a..b`` has three).

    The time grows with pattern times key, whatever the pattern: all ways to read
    it are followed at once, where trying one after the other could take ages for
    ``#.a.#.b.#`` and the like. A repeated question costs 0.1 µs.
    """
    wanted = _words(pattern)
    reached = _past_hashes(wanted, {0})
    for word in _words(routing_key):
        ahead = set()
        for index in reached:
            if index == len(wanted):
                continue
            if wanted[index] == "#":
                ahead.add(index)
            elif wanted[index] in ("*", word):
                ahead.add(index + 1)
        reached = _past_hashes(wanted, ahead)
    return len(wanted) in reached


@lru_cache(maxsize=4_096)
def patterns_overlap(one: str, other: str) -> bool:
    """Whether there is a routing key that both patterns match."""
    return _overlap(tuple(_words(one)), tuple(_words(other)))


@lru_cache(maxsize=16_384)
def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if not one or not other:
        return set(one) | set(other) <= {"#"}
    if one[0] == "#":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "#":
        return _overlap(other, one)
    fits = one[0] == other[0] or "*" in (one[0], other[0])
    return fits and _overlap(one[1:], other[1:])


def _words(text: str) -> list[str]:
    return text.split(".") if text else []


def _past_hashes(wanted: list[str], indexes: AbstractSet[int]) -> set[int]:
    """The indexes, and those behind each ``#`` there, which may match no word."""
    reached = set(indexes)
    for start in indexes:
        index = start
        while index < len(wanted) and wanted[index] == "#":
            index += 1
            reached.add(index)
    return reached
