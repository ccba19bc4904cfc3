"""Celery's connections to the broker, which connect to any available node, and what a
worker does when the broker refuses something."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Never, Protocol

import amqp
from celery import Celery
from celery.app.amqp import AMQP
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger

from meshtasks.amqp.connecting import Connection
from meshtasks.amqp.declare import declare, refusals
from meshtasks.amqp.topology import Topology
from meshtasks.errors import ConfigError
from meshtasks.worker import flow_control
from meshtasks.worker.queue_consumer import QueueConsumer

logger = get_logger(__name__)

#: Interval of attempts to get what the broker refuses.
REFUSED_SECONDS = 10.0
_ALL, _TOPOLOGY = "what a worker needs", "the topology"
_EVENTS = "events for monitors"


class NodesAMQP(AMQP):  # type: ignore[misc]  # celery ships no types
    """Makes all connections of Celery: of the worker, of events and remote control, and
    of Flower."""

    Connection = Connection
    BrokerConnection = Connection


def new_app(name: str, url: str, **options: Any) -> Celery:
    """Create a Celery application.

    Args:
        url: AMQP URL, or several URLs separated by ``;``.
    """
    return Celery(name, broker=url, amqp=NodesAMQP, **options)


def end_worker(why: object, error: Exception) -> Never:
    """Log the reason, and end the worker with the exit code of a wrong configuration.

    Raises:
        WorkerShutdown: always.
    """
    logger.critical("%s", why)
    raise WorkerShutdown(ConfigError.exit_code) from error


class Refusals:
    """Logs what the broker refuses, once per reason."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def note(self, what: str, reason: str) -> None:
        """Note a refusal."""
        if self._told.get(what) != reason:
            self._told[what] = reason
            logger.error("%s. Trying again every %d s", reason, REFUSED_SECONDS)

    def over(self, what: str) -> None:
        """Note that it is not refused any more."""
        if self._told.pop(what, None) is not None:
            logger.warning("The broker accepts %s again", what)


class _Loop(Protocol):
    later: Callable[..., object]

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback at the next turn."""


class Recovery:
    """Gets again what the broker refuses, has closed or has forgotten.

    What it refuses at the start ends the worker: the configuration is wrong. Once the
    worker has consumed, everything is tried until it is accepted, and each queue for
    itself, as far as the broker closes only its channel.

    Args:
        connection: returns the worker's connection.
        consumers: consumers by name of the queue or partition.
        replace: closes a consumer, and returns one that takes its place.
        open_: opens a consumer.
        reconnect: drops the connection, for the given reason.

    Attributes:
        has_consumed: whether the broker once accepted everything.
        refusals: logs what the broker refuses.
    """

    def __init__(
        self,
        topology: Topology,
        connection: Callable[[], Any],
        loop: _Loop,
        consumers: Mapping[str, QueueConsumer],
        replace: Callable[[QueueConsumer], QueueConsumer],
        open_: Callable[[QueueConsumer], None],
        reconnect: Callable[[str], None],
    ) -> None:
        self.has_consumed = False
        self._topology = topology
        self._connection = connection
        self._loop = loop
        self._consumers = consumers
        self._replace = replace
        self._open = open_
        self._reconnect = reconnect
        self._watch = flow_control.ProgressWatch()
        self.refusals = Refusals()
        self._is_incomplete = False
        self._declared_at = 0.0
        self._lost: list[tuple[QueueConsumer, str]] = []
        self._events: Any = None  # Celery's dispatcher, while it is refused

    def declare(self, connection: Any) -> None:
        """Declare the whole topology; once the worker has consumed, as much of it as
        the broker accepts.

        Raises:
            WorkerShutdown: the broker refuses a part of it at the start.
            amqp.ChannelError: the broker closed a channel of another queue meanwhile.
        """
        self._declared_at = time.monotonic()
        if not self.has_consumed:
            try:
                declare(connection, self._topology)
            except ConfigError as error:
                end_worker(error, error)
            return
        faults = [str(fault) for fault in refusals(connection, self._topology)]
        self._is_incomplete = bool(faults)
        if faults:
            more = f"; and {len(faults) - 1} more refusals" if faults[1:] else ""
            self.refusals.note(_TOPOLOGY, faults[0] + more)
        else:
            self.refusals.over(_TOPOLOGY)

    def refused(self, error: amqp.ChannelError) -> None:
        """Note that the broker refuses what Celery's own steps need.

        Raises:
            WorkerShutdown: it does so at the start.
        """
        text = f"meshtasks: the broker refuses {_ALL}: {error}"
        if not self.has_consumed:
            end_worker(text, error)
        self.refusals.note(_ALL, text)

    def consumes(self) -> None:
        """Note that the broker accepts everything that Celery's steps need."""
        self.has_consumed = True
        self.refusals.over(_ALL)

    def opened(self, consumer: QueueConsumer) -> None:
        """Note that a consumer was opened, unless it was refused."""
        if consumer.alive:
            self.refusals.over(consumer.source)

    def forget(self) -> None:
        """Drop the consumers of a lost connection."""
        self._lost.clear()
        self._events = None

    def tick(self, now: float) -> None:
        """Declare again what was refused, and ask whether messages arrive; called once
        a second.

        A quorum queue that was deleted and declared anew at once has no bindings. The
        broker may show our consumer, and yet deliver nothing to it (3.10). So a queue
        that is silent for long is declared and consumed again in any case.

        Args:
            now: monotonic seconds.
        """
        if self._is_incomplete and now - self._declared_at >= REFUSED_SECONDS:
            self._declare_again()
        for consumer in tuple(self._consumers.values()):
            try:
                finding = self._watch.look(consumer, now)
                if finding.is_detached:
                    text = "%s was deleted and declared anew; it is consumed again"
                    logger.error(text, consumer.source)
                    self._declare_again()
                if finding.is_detached and consumer.unresolved:
                    consumer.renew()
                elif finding.is_detached or finding.is_silent:
                    if now - self._declared_at >= flow_control.SILENT_SECONDS:
                        self._declare_again()
                    self._open(self._replace(consumer))
            except amqp.ChannelError as error:
                self.on_refused(consumer, error)
            else:
                if finding.stalled:
                    self._reconnect(finding.stalled)

    def on_lost(self, consumer: QueueConsumer, reason: str) -> None:
        """Open a queue again, because the broker has removed its consumer."""
        if consumer.alive:
            consumer.alive = False  # the broker delivers its messages again
            self._lost.append((consumer, reason))
            self._loop.soon(self._reopen_lost)

    def on_refused(self, consumer: QueueConsumer, error: amqp.ChannelError) -> None:
        """Open a queue again later, because the broker refused a call for it."""
        if not self.has_consumed:
            self.refused(error)
        self.on_lost(consumer, f"the broker refuses {consumer.source}")
        self.on_channel_error(error)

    def on_channel_error(self, error: amqp.ChannelError) -> None:
        """Note why the broker closed a channel.

        Raises:
            amqp.ChannelError: it is a channel of Celery's steps.
        """
        if not self._lost:
            raise error
        consumer, reason = self._lost[-1]
        self._lost[-1] = consumer, f"{reason} ({error})"

    def on_events_refused(self, events: Any, error: amqp.ChannelError) -> None:
        """Go on without Celery's events for monitors, and try again later."""
        events.disable()
        self._events = events
        self.refusals.note(_EVENTS, f"Cannot send {_EVENTS}: {error}")
        self._loop.later(REFUSED_SECONDS, self._enable_events, events)

    def _enable_events(self, events: Any) -> None:
        if events is self._events:
            events.enable()
            self._loop.later(REFUSED_SECONDS, self._note_events, events)

    def _note_events(self, events: Any) -> None:
        if events.enabled:
            self.refusals.over(_EVENTS)

    def _reopen_lost(self) -> None:
        """Open lost queues again, each at most once in ten seconds."""
        lost, self._lost = self._lost, []
        now = time.monotonic()
        for consumer, reason in lost:
            if self._consumers.get(consumer.source) is consumer:
                self.refusals.note(consumer.source, f"Cannot consume: {reason}")
                wait = max(0.0, consumer.opened_at + REFUSED_SECONDS - now)
                self._loop.later(wait, self._reopen, self._replace(consumer))

    def _reopen(self, consumer: QueueConsumer) -> None:
        if self._consumers.get(consumer.source) is consumer:
            self._declare_again()  # it may have been deleted
            self._open(consumer)

    def _declare_again(self) -> None:
        try:
            self.declare(self._connection())
        except amqp.ChannelError as error:
            self._is_incomplete = True
            self.refusals.note(_TOPOLOGY, f"Cannot declare {_TOPOLOGY}: {error}")
