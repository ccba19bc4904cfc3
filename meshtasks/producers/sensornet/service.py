"""Consumes the devices' queue and publishes the records of its messages.

It publishes with confirms, and only then acknowledges the messages. It needs no spool
and no buffer, because unprocessed messages stay in the queue. While publishing fails,
the current messages are published again and no others are consumed.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kombu
from amqp.exceptions import AccessRefused, ChannelError, NotFound

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.dead_letters import FailedMessage, dead_message
from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.private_files import make_private_directory
from meshtasks.errors import ConfigError, Transient, Unroutable
from meshtasks.outcome import Dead
from meshtasks.producers.buffer import Route, encode
from meshtasks.producers.collecting import metric
from meshtasks.producers.sensornet.announcements import AnnouncementsFile
from meshtasks.producers.sensornet.message_records import (
    NotBelieved,
    Published,
    moment,
    writable,
)
from meshtasks.producers.sensornet.normaliser import Normalised, Normaliser
from meshtasks.producers.sensornet.report import ValueCounts
from meshtasks.timing import Backoff

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 60.0
#: First words of the routing keys of the producer's own metrics.
_METRICS = "metrics.application.sensornet"
#: Limit of value names that are counted separately: a message may contain any name.
_MOST_NAMES = 500
_OTHER_NAMES = "other names"
_OUTCOMES = ("published", "dead", "passed_over")
#: Messages handled together. As many again are prefetched meanwhile.
_BURST = 500
#: Longest wait for more messages of a burst after the first one.
_BURST_SECONDS = 0.02


class Inbox:
    """Consumes one queue over a connection. A new connection needs a new inbox.

    Raises:
        ConfigError: the account may not read the queue.
        Transient: the queue does not exist (yet).
    """

    def __init__(self, connection: kombu.Connection, queue: str) -> None:
        self._connection = connection
        self._arrived: deque[Delivery] = deque()
        self._channel: Any = connection.channel()
        try:
            self._channel.basic_qos(0, 2 * _BURST, a_global=False)
            self._channel.basic_consume(queue, callback=self._on_message)
        except NotFound as error:
            message = f"there is no queue {queue}; run `meshtasks topology apply`"
            raise Transient(message) from error
        except AccessRefused as error:
            source = f"RabbitMQ virtual host {connection.virtual_host}"
            expected = f"this account is not allowed to read it ({error.reply_text})"
            raise ConfigError(source, f"queue {queue}", expected) from error

    def take(self, within_seconds: float) -> list[Delivery]:
        """Return the messages of a burst, in order; empty if none arrives in time.

        Raises:
            Transient: the broker closed the channel.
        """
        try:
            self._drain(1, within_seconds)
            self._drain(_BURST, _BURST_SECONDS)
        except ChannelError as error:
            message = f"the broker closed the channel: {error.reply_text}"
            raise Transient(message) from error
        return [self._arrived.popleft() for _ in range(min(_BURST, len(self._arrived)))]

    def acknowledge(self, last: Delivery) -> None:
        """Acknowledge a message and all messages that were taken before it."""
        self._channel.basic_ack(last.tag, multiple=True)

    def _on_message(self, message: Any) -> None:
        self._arrived.append(delivery_of(message, time.time()))

    def _drain(self, enough: int, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        with suppress(TimeoutError):
            while len(self._arrived) < enough:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                self._connection.drain_events(timeout=remaining)


@dataclass(slots=True)
class MessageCounts:
    """Counts since the start.

    Attributes:
        outcomes: resolved messages of devices by outcome: ``published`` in full;
            ``dead``, even if their good values were published; or ``passed_over``.
        messages: exchange → messages published to it.
        skipped: reason → values, or messages without values, that were skipped.
        values: the skipped values by reason and name. Beyond 500 pairs, new names count
            as "other names".
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    values: ValueCounts = field(default_factory=Counter)

    def add(self, normalised: Normalised) -> list[tuple[str, str]]:
        """Count a resolved message; return new pairs of reason and name of values."""
        whole = "published" if normalised.messages else "passed_over"
        self.outcomes[whole if normalised.dead is None else "dead"] += 1
        self.messages.update(message.exchange for message in normalised.messages)
        self.skipped.update(normalised.skipped)
        new = []
        for key, count in (normalised.counted + normalised.remarks).items():
            reason, name = key
            if name and key not in self.values and len(self.values) < _MOST_NAMES:
                new.append(key)
            if name:
                counted = key in self.values or key in new
                self.values[key if counted else (reason, _OTHER_NAMES)] += count
        return new

    def of_messages(self) -> dict[str, int]:
        """Return message counts; ``received = published + dead + passed_over``."""
        parts = {name: self.outcomes[name] for name in _OUTCOMES}
        return {"received": self.outcomes.total(), **parts}

    def summary(self) -> dict[str, Any]:
        """Return the counts as one JSON object."""
        return {
            **self.of_messages(),
            "messages": dict(self.messages),
            "skipped": dict(self.skipped.most_common()),
        }

    def metrics(self, host: str, now: float) -> Iterator[dict[str, Any]]:
        """Yield the counts as metrics: one of messages, one for each skipped name."""
        yield metric("sensornet", self.of_messages(), {"host": host}, now)
        for (reason, name), count in self.values.items():
            tags = {"host": host, "reason": reason, "value": writable(name)}
            yield metric("sensornet_passed_over", {"count": count}, tags, now)


class _StoppedError(Exception):
    """``stop`` was set before all messages were confirmed."""


class DeviceService:
    """Normalises messages of devices until ``stop`` is set.

    The current messages are completed first, unless the broker is unavailable.

    Args:
        announcements: file of the announcements that the normaliser updates.
        seen: file that is touched at each read of the queue, for a liveness probe.

    Attributes:
        counts: counts of the messages so far.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        normaliser: Normaliser,
        announcements: AnnouncementsFile,
        stop: threading.Event,
        *,
        seen: Path | None = None,
    ) -> None:
        self._url = url
        self._queue = queue
        self._normaliser = normaliser
        self._announcements = announcements
        self._stop = stop
        self._seen = seen
        self._publisher = Publisher(url)
        self._backoff = Backoff()
        self._reported = MessageCounts().summary()
        self._reported_at = time.monotonic()
        self.counts = MessageCounts()

    def run(self) -> None:
        """Consume the queue, and reconnect when the connection is lost.

        Raises:
            ConfigError: the broker refuses the account or its virtual host, or the
                account may not read the queue.
        """
        failed_attempts = 0
        try:
            while not self._stop.is_set():
                try:
                    with connected(self._url) as connection:
                        inbox = Inbox(connection, self._queue)
                        logger.info("consuming queue %s", self._queue)
                        failed_attempts = 0
                        self._serve(inbox)
                except Transient as error:
                    logger.warning("%s", error)
                    self._stop.wait(self._backoff.delay_seconds(failed_attempts))
                    failed_attempts += 1
        except _StoppedError:
            logger.info("stopped while the broker did not take messages")
        finally:
            self._publisher.close()

    def _serve(self, inbox: Inbox) -> None:
        while not self._stop.is_set():
            self._show_life()
            if deliveries := inbox.take(_POLL_SECONDS):
                self._handle(deliveries)
                inbox.acknowledge(deliveries[-1])
            if time.monotonic() - self._reported_at >= _REPORT_SECONDS:
                self._report()

    def _show_life(self) -> None:
        if self._seen is None:
            return
        try:
            make_private_directory(self._seen.parent)
            self._seen.touch()
        except OSError as error:
            logger.warning("probes will not see that the queue is consumed: %s", error)
            self._seen = None

    def _handle(self, deliveries: Sequence[Delivery]) -> None:
        """Publish the records and dead letters of the messages, and count them."""
        results = [
            self._normaliser.normalise(
                Published(each.routing_key, each.body, _received_at(each))
            )
            for each in deliveries
        ]
        self._announcements.save()
        outgoing: list[Outgoing] = []
        for delivery, result in zip(deliveries, results, strict=True):
            outgoing += result.messages
            if result.dead:
                outgoing.append(self._dead_letter(delivery, result.dead))
        if unroutable := self._publish(outgoing):
            self._dead_letter_unroutable(deliveries, results, unroutable)
        for result in results:
            for reason, name in self.counts.add(result):
                logger.info("values of %s are passed over: %s", name, reason)

    def _dead_letter_unroutable(
        self,
        deliveries: Sequence[Delivery],
        results: list[Normalised],
        unroutable: frozenset[Route],
    ) -> None:
        """Dead-letter the messages whose records matched no queue.

        Raises:
            Transient: there is no queue for dead letters either.
        """
        dead = Dead(str(Unroutable(unroutable)), Unroutable.__name__)
        dead_letters = []
        for index, result in enumerate(results):
            if any((m.exchange, m.routing_key) in unroutable for m in result.messages):
                results[index] = replace(result, dead=dead)
                dead_letters.append(self._dead_letter(deliveries[index], dead))
        if again := self._publish(dead_letters):
            message = f"{Unroutable(again)}; run `meshtasks topology apply`"
            raise Transient(message)

    def _publish(self, messages: Sequence[Outgoing]) -> frozenset[Route]:
        """Publish until confirmed; return the routes without a queue.

        Raises:
            _StoppedError: ``stop`` was set before the broker confirmed.
        """
        failed_attempts = 0
        while messages:
            try:
                self._publisher.publish(messages)
            except Unroutable as error:
                return error.routes
            except Transient as error:
                logger.warning("the broker did not take a batch: %s", error)
                if self._stop.wait(self._backoff.delay_seconds(failed_attempts)):
                    raise _StoppedError from error
                failed_attempts += 1
            else:
                break
        return frozenset()

    def _dead_letter(self, delivery: Delivery, dead: Dead) -> Outgoing:
        failed = FailedMessage(delivery, self._queue, delivery.body)
        worker, now = f"sensornet@{platform.node()}", time.time()
        return dead_message(failed, dead, task_id="", worker=worker, now=now)

    def _report(self) -> None:
        """Log and publish the counts, if they have changed."""
        self._reported_at = time.monotonic()
        summary = self.counts.summary()
        if summary == self._reported:
            return
        self._reported = summary
        logger.info("so far %s", summary)
        now = time.time()
        messages = [
            Outgoing(
                *("metrics", f"{_METRICS}.{record['name']}", encode(record)),
                *(new_message_id(), now),
            )
            for record in self.counts.metrics(platform.node(), now)
        ]
        if unroutable := self._publish(messages):
            logger.warning("%s", Unroutable(unroutable))


def _received_at(delivery: Delivery) -> float:
    """Return when the broker received the message, if it adds that, else when we did.

    RabbitMQ's interceptor ``set_header_timestamp`` adds the time as a header, in
    milliseconds: https://www.rabbitmq.com/docs/message-interceptors.
    """
    with suppress(NotBelieved):  # any client may send this header
        noted = moment(
            delivery.headers.get("timestamp_in_ms"), delivery.received_at, None
        )
        if noted is not None:
            return noted
    return delivery.received_at
