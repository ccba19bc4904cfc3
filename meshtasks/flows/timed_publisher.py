"""The publisher that handlers use: the broker's confirms are timed like a sink."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.timing import timed


class TimedPublisher(Publisher):
    """Publishes, and notes how long the confirms took."""

    @override
    @timed("publisher")
    def publish(self, messages: Sequence[Outgoing]) -> None:
        super().publish(messages)
