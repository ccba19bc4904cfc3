"""What the state has of sensors, and what the broker and the workers say now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, Self

from meshtasks.amqp.connecting import connected, depths_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.observation.workers import WorkerAnswer, ask_workers
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import Gap, Incident, Sensor, Span


class Remembered(NamedTuple):
    """What the state has, read at once."""

    sensors: Sequence[Sensor] = ()
    gaps: Sequence[Gap] = ()
    incidents: Sequence[Incident] = ()
    spans: Sequence[Span] = ()

    @classmethod
    def read(cls, settings: Settings, since: float) -> Self:
        """What it has from then on.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        with closing(History(StateLocation.of(settings.env))) as history:
            return cls.of(history, since) if history.exists() else cls()

    @classmethod
    def of(cls, history: History, since: float) -> Self:
        """What a history has from then on.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        return cls(
            history.sensors(),
            history.gaps(since),
            history.incidents(since),
            history.spans(since),
        )


class Live(NamedTuple):
    """The mesh at the moment.

    Attributes:
        depths: messages and consumers by queue; None when the broker cannot be asked.
        workers: their answers.
        fault: why it cannot.
    """

    depths: Mapping[str, tuple[int, int]] | None
    workers: Sequence[WorkerAnswer] = ()
    fault: str = ""


def look_at(settings: Settings, queues: Sequence[str]) -> Live:
    """Ask the broker for queues, and the workers for their state; takes a second."""
    url = settings.env.amqp_url
    topology = settings.read(TOPOLOGY)
    depths: dict[str, tuple[int, int]] = {}
    try:
        with connected(url) as connection:
            for queue in queues:
                parts = depths_of(connection, topology.names_of(queue)).values()
                ready = sum(part.ready for part in parts)
                consumers = min((part.consumers for part in parts), default=0)
                depths[queue] = ready, consumers
        return Live(depths, ask_workers(url))
    except (Transient, ConfigError) as error:
        return Live(None, (), str(error).rstrip("."))
