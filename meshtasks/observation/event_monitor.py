"""Watch the broker in a thread for what :mod:`meshtasks.observation.seen` counts."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, Self

import kombu
from amqp.exceptions import ChannelError
from celery.events.event import get_exchange

from meshtasks.amqp import headers
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.delivery import trusted_headers
from meshtasks.amqp.topology import Topology
from meshtasks.errors import ConfigError, Transient
from meshtasks.observation.seen import Identity, MonitorState, Seen, dead_letter_of

_ALERTS_EXCHANGE = "alerts"
_RESULTS_QUEUE = "ai.inference.results"
_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
#: Limits of the monitor's queues. If the monitor is too slow, the broker drops the
#: oldest copies: it must neither fill up nor block publishers because of the monitor.
_BOUNDED = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


class EventMonitor:
    """Watches dead letters, alerts and workers in a thread of its own.

    Args:
        url: of the broker.
        topology: names the exchanges of the queues; without it only workers are
            watched.
    """

    def __init__(self, url: str, topology: Topology | None = None) -> None:
        self._url = url
        self._topology = topology
        self._monitor = MonitorState()
        #: Why events are missing; empty if there is no fault.
        self.fault = ""
        self._open = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_open(self, within_seconds: float) -> bool:
        """Wait until all events are seen. Return False after ``within_seconds``."""
        return self._open.wait(within_seconds)

    def seen(self) -> Seen:
        """The counts so far."""
        return self._monitor.seen()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connected(self._url) as connection:
                    self._watch(connection)
            except (Transient, ConfigError, ChannelError) as error:
                self.fault = f"dead letters, alerts and workers not seen: {error}"
            if self._open.is_set() and not self._stopping.is_set():
                self._open.clear()
                self._monitor.interruption()
            self._stopping.wait(_RECONNECT_SECONDS)

    def _watch(self, connection: kombu.Connection) -> None:
        with closing(connection.channel()) as channel:
            # The exchange of the events exists once a worker has run. It is declared
            # with the same arguments as Celery's, so it may also be created here.
            events = get_exchange(connection)(channel)
            events.declare()
            for note, routes in self._taps(events.name):
                queue = channel.queue_declare(
                    "", exclusive=True, arguments=_BOUNDED
                ).queue
                for exchange, routing_key in routes:
                    channel.queue_bind(queue, exchange, routing_key)
                channel.basic_consume(queue, no_ack=True, callback=note)
            self._open.set()
            self.fault = ""
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=_POLL_SECONDS)

    def _taps(
        self, events: str
    ) -> Iterator[tuple[Callable[[Any], None], list[tuple[str, str]]]]:
        """Callbacks for messages, each with its exchanges and routing keys."""
        seen, topology = self._monitor, self._topology
        yield lambda m: seen.event(m.body, time.time()), [(events, "#")]
        if topology is None:
            return
        yield self._on_dead_letter, _routes_to(topology.dead_letter_queue, topology)
        yield (
            lambda m: seen.retry(m.delivery_info["routing_key"]),
            [(queue.name, "") for queue in topology.retry_queues],
        )
        yield (
            lambda m: seen.result(str(m.properties.get("message_id", ""))),
            _routes_to(_RESULTS_QUEUE, topology),
        )
        yield lambda m: seen.alert(m.body, time.time()), [(_ALERTS_EXCHANGE, "")]

    def _on_dead_letter(self, message: Any) -> None:
        properties = message.properties
        table = trusted_headers(
            properties.get("application_headers") or {},
            message.delivery_info["exchange"],
        )
        identity: Identity | None = None
        if message_id := properties.get("message_id"):
            digest = hashlib.blake2b(message.body, digest_size=8).digest()
            identity = str(message_id), table.get(headers.RECORD_INDEX), digest
        routing_key = message.delivery_info["routing_key"]
        letter = dead_letter_of(table, routing_key, time.time())
        self._monitor.dead_letter(letter, identity)


def _routes_to(queue: str, topology: Topology) -> list[tuple[str, str]]:
    return [
        (binding.exchange, binding.routing_key)
        for binding in topology.all_bindings
        if binding.queue == queue
    ]
