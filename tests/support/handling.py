"""Run handlers without a worker: real sinks, and batches as the worker makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from meshtasks import testing
from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.testing import NOW, message

__all__ = ("HANDLERS", "NOW", "Kept", "handle", "message", "opened", "settings_of")

#: Those of queues that the flows know by themselves, by queue.
HANDLERS = load_flows().fixed


def settings_of(env: Mapping[str, str], **fields: Any) -> Settings:
    """Settings from ``MESH_*`` variables, and further fields of the environment."""
    named = {name.removeprefix("MESH_").lower(): env[name] for name in env}
    return Settings(Environment(**named | fields))


@contextmanager
def opened(settings: Settings) -> Iterator[Sinks]:
    """Sinks, closed at the end."""
    sinks = Sinks(settings)
    try:
        yield sinks
    finally:
        sinks.close()


def handle(sinks: Sinks, *messages: Envelope) -> list[Outcome]:
    """Decode messages of one queue and give their good records to its handler.

    Returns:
        One outcome for each record, in order.
    """
    return testing.handle(HANDLERS[messages[0].queue], sinks, *messages)


class Kept:
    """Stands for time-series store and publisher: takes all.

    Attributes:
        alerts: body by message id.
    """

    def __init__(self) -> None:
        self.alerts: dict[str | None, bytes] = {}

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self.alerts |= {
            each.message_id: each.body for each in messages if each.exchange == "alerts"
        }

    def write(self, *_: object, **__: object) -> dict[int, str]:
        return {}

    def close(self) -> None:
        pass
