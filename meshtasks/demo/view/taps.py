"""Looks at what passes by, without taking any of it.

Queues of its own, exclusive to one connection, get copies: of dead letters
(bound as the dead-letter queue is), of retries, of models' results, of alerts, and of
Celery's events. The dead-letter queue itself is left alone: looking at a message there
would count as a delivery and change the order.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Self

import kombu
from amqp.exceptions import ChannelError
from celery.events.event import get_exchange

from meshtasks.amqp import headers
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.delivery import trusted_headers
from meshtasks.amqp.topology import Topology
from meshtasks.demo.view.sightings import Identity, Sightings, dead_letter_of
from meshtasks.demo.view.snapshot import Seen
from meshtasks.errors import ConfigError, Transient

_ALERTS_EXCHANGE = "alerts"
_RESULTS_QUEUE = "ai.inference.results"

_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
#: When we do not keep up, the broker drops the oldest copies; it must never fill up
#: or hold back a publisher on our account.
_BOUNDED = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


class Taps:
    """Watches dead letters, alerts and workers in a thread of its own.

    Args:
        url: AMQP URL.
        topology: names the exchanges that feed the queues.
    """

    def __init__(self, url: str, topology: Topology) -> None:
        self._url = url
        self._dead_routes = _routes_to(topology.dead_letter_queue, topology)
        self._result_routes = _routes_to(_RESULTS_QUEUE, topology)
        self._retry_routes = [(queue.name, "") for queue in topology.retry_queues]
        self._sightings = Sightings()
        #: Why nothing is seen; empty while all is well.
        self.fault = ""
        self._open = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taps", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_open(self, within_seconds: float) -> bool:
        """Wait until everything that passes is seen; whether it is."""
        return self._open.wait(within_seconds)

    def seen(self) -> Seen:
        """What was seen so far."""
        return self._sightings.seen()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connected(self._url) as connection:
                    self._watch(connection)
            except (Transient, ConfigError, ChannelError) as error:
                self.fault = f"dead letters, alerts and workers not seen: {error}"
            if self._open.is_set() and not self._stopping.is_set():
                self._open.clear()
                self._sightings.interruption()
            self._stopping.wait(_RECONNECT_SECONDS)

    def _watch(self, connection: kombu.Connection) -> None:
        with closing(connection.channel()) as channel:
            channel.auto_decode = False  # bodies are whatever somebody published
            # The exchange of the events is there once a worker was; declaring it as
            # Celery does makes it so.
            events = get_exchange(connection)(channel)
            events.declare()
            self._tap(channel, self._dead_routes, self._on_dead_letter)
            self._tap(channel, self._retry_routes, self._on_retry)
            self._tap(channel, self._result_routes, self._on_result)
            self._tap(channel, [(_ALERTS_EXCHANGE, "")], self._on_alert)
            self._tap(channel, [(events.name, "#")], self._on_event)
            self._open.set()
            self.fault = ""
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=_POLL_SECONDS)

    def _tap(
        self,
        channel: Any,
        routes: Sequence[tuple[str, str]],
        on_message: Callable[[Any], None],
    ) -> None:
        queue = channel.queue_declare("", exclusive=True, arguments=_BOUNDED).queue
        for exchange, routing_key in routes:
            channel.queue_bind(queue, exchange, routing_key)
        channel.basic_consume(queue, no_ack=True, callback=on_message)

    def _on_dead_letter(self, message: Any) -> None:
        properties = message.properties
        table = trusted_headers(
            properties.get("application_headers") or {},
            message.delivery_info["exchange"],
        )
        identity: Identity | None = None
        if message_id := properties.get("message_id"):
            digest = hashlib.blake2b(_bytes(message), digest_size=8).digest()
            identity = str(message_id), table.get(headers.RECORD_INDEX), digest
        routing_key = message.delivery_info["routing_key"]
        letter = dead_letter_of(table, routing_key, time.time())
        self._sightings.dead_letter(letter, identity)

    def _on_retry(self, message: Any) -> None:
        self._sightings.retry(message.delivery_info["routing_key"])

    def _on_result(self, message: Any) -> None:
        self._sightings.result(str(message.properties.get("message_id", "")))

    def _on_alert(self, message: Any) -> None:
        self._sightings.alert(_bytes(message), time.time())

    def _on_event(self, message: Any) -> None:
        self._sightings.event(_bytes(message), time.time())


def _routes_to(queue: str, topology: Topology) -> list[tuple[str, str]]:
    """Exchange and routing key of every binding of a queue."""
    return [
        (binding.exchange, binding.routing_key)
        for binding in topology.all_bindings
        if binding.queue == queue
    ]


def _bytes(message: Any) -> bytes:
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)
