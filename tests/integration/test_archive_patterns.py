"""Selection patterns mean what the same words mean in a binding of RabbitMQ."""

from __future__ import annotations

import itertools

import amqp

from meshtasks.amqp.entities import topic_matches
from tests.support.amqp import open_channel

WORDS = ("a", "", "*", "#")
KEYS = [
    ".".join(words)
    for count in range(1, 4)
    for words in itertools.product(("a", "b", ""), repeat=count)
]
PATTERNS = sorted(
    {
        ".".join(words)
        for count in range(1, 4)
        for words in itertools.product(WORDS, repeat=count)
    }
)


def test_a_pattern_matches_the_keys_that_rabbitmq_routes_by_it(amqp_url: str) -> None:
    routed: dict[str, set[str]] = {pattern: set() for pattern in PATTERNS}
    with open_channel(amqp_url) as channel:
        channel.exchange_declare("patterns", "topic", auto_delete=False)
        for pattern in PATTERNS:
            channel.queue_declare(f"by {pattern}", exclusive=True)
            channel.queue_bind(f"by {pattern}", "patterns", pattern)
        for key in KEYS:
            channel.basic_publish_confirm(amqp.Message(key), "patterns", key)
        for pattern, keys in routed.items():
            while (
                message := channel.basic_get(f"by {pattern}", no_ack=True)
            ) is not None:
                keys.add(message.body.decode())

    assert routed == {
        pattern: {key for key in KEYS if topic_matches(pattern, key)}
        for pattern in PATTERNS
    }
