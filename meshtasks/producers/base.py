"""The producer thread: message ids, batches, confirms, reconnecting and stopping.

A source submits records to a :class:`Producer`, which publishes them in a thread. Each
message gets its id and timestamp once and keeps them when it is published again, so
that receivers recognise the repetition.

Messages that the broker does not confirm wait on disk, in
``MESH_STATE_DIR/spool/<name>.sqlite3``. When the broker is available again, they are
published first, by the same process or by the next one. A source's command needs three
lines::

    stop = context.ensure_object(threading.Event)
    producer = spooling_producer("weather", Batching(array_size=10))
    raise typer.Exit(run_session(producer, feed, stop))

``feed`` calls :meth:`Producer.submit` until the source ends or ``stop`` is set, whether
or not the broker is available (:mod:`meshtasks.producers.session`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.errors import PublishRefused, Transient, Unroutable
from meshtasks.producers.buffer import (
    ArrayPacker,
    Batching,
    Buffer,
    Counts,
    Pending,
    Route,
    encode,
)
from meshtasks.timing import Backoff

logger = logging.getLogger(__name__)

#: Limit of a body in bytes: ``max_message_size`` of RabbitMQ 4. The broker closes the
#: channel of a larger message, so such a message would block all later ones.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: Limit of a routing key in bytes: AMQP 0-9-1 encodes it as a short string.
MAX_ROUTING_KEY_BYTES = 255

_DROP_LOG_INTERVAL_SECONDS = 10.0
#: Longest wait between attempts while the producer stops, shorter than the backoff's.
_STOPPING_DELAY_SECONDS = 0.5


class Producer:
    """Publishes submitted records in order, and again until the broker confirms them.

    While the broker is unavailable, messages wait in the buffer, in order, and the
    producer reconnects with backoff. A full buffer drops its oldest waiting messages;
    they are counted and logged.

    Submitting is thread-safe and does not wait for the broker. With a
    :class:`~meshtasks.producers.spool.Spool`, submitting writes to disk while the
    broker is unavailable, so the messages survive the process. This does not apply to
    the records of an array that is not full, until they are ``age_seconds`` old
    (:class:`~meshtasks.producers.buffer.Batching`).

    Args:
        publisher: used and closed by the producer's thread only.
        buffer: store of unconfirmed messages, by default in memory; closed by
            :meth:`stop`.
        on_confirmed: called in the producer's thread with the messages of each
            confirmed batch.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        buffer: Buffer | None = None,
        batching: Batching | None = None,
        backoff: Backoff | None = None,
        on_confirmed: Callable[[Sequence[Pending]], None] | None = None,
    ) -> None:
        self._publisher = publisher
        self._buffer = Buffer() if buffer is None else buffer
        self._batching = batching or Batching()
        self._backoff = backoff or Backoff()
        self._on_confirmed = on_confirmed
        self._counts = Counts(restored=self._buffer.restored_records)
        self._arrays = ArrayPacker(self._batching)
        #: Time (monotonic, seconds) at which the next batch is due even if not full.
        self._due_at = time.monotonic() if self._buffer.waiting else None
        self._arrays_due_at = 0.0
        self._drop_logged_at = -_DROP_LOG_INTERVAL_SECONDS
        self._connected = self._stopping = self._abandoned = self._closed = False
        self._last_error = ""
        #: Guards all attributes above except the publisher.
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    def start(self) -> None:
        """Start the thread that connects and publishes."""
        self._thread.start()

    def wait_connected(self, within_seconds: float) -> bool:
        """Wait for the first connection; return whether it was made in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._connected, within_seconds)

    def wait_for_room(self, size_bytes: int, within_seconds: float) -> bool:
        """Wait until the buffer can take a body of this size without dropping messages.

        For sources that can wait. Other sources submit at once, because their newest
        reading is worth more than their oldest.

        Returns:
            Whether there was room in time.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: self._buffer.has_room(size_bytes), within_seconds
            )

    @property
    def last_error(self) -> str:
        """Reason of the last failed attempt to publish; empty if none failed."""
        return self._last_error

    def counts(self) -> Counts:
        """Return a copy of the counts."""
        with self._changed:
            return replace(self._counts)

    def submit(
        self,
        exchange: str,
        routing_key: str,
        record: object,
        *,
        timestamp: float | None = None,
    ) -> None:
        """Publish one record, in an array message if the producer packs them.

        Args:
            timestamp: time of the record in epoch seconds; by default now.

        Raises:
            TypeError, ValueError: the record cannot be JSON (NaN and Infinity are not
                allowed), or the message exceeds a limit of AMQP.
        """
        body = encode(record)
        _check(routing_key, body)
        if timestamp is None:
            timestamp = time.time()
        with self._changed:
            self._counts.accepted += 1
            if not self._arrays:
                self._arrays_due_at = time.monotonic() + self._batching.age_seconds
            route = exchange, routing_key
            for complete in self._arrays.add(route, body, timestamp):
                self._append(complete)
            self._close_overdue_arrays()
            self._wake()

    def submit_message(self, message: Outgoing, *, records: int = 1) -> None:
        """Publish a message unchanged, except for a missing id or timestamp.

        A missing id is generated; a missing timestamp is now.

        Args:
            records: number of records in the body.

        Raises:
            ValueError: the message exceeds a limit of AMQP.
        """
        _check(message.routing_key, message.body)
        if message.message_id is None:
            message = message._replace(message_id=new_message_id())
        if message.timestamp is None:
            message = message._replace(timestamp=time.time())
        with self._changed:
            self._counts.accepted += records
            # An array of earlier records is published first.
            for earlier in self._arrays.close((message.exchange, message.routing_key)):
                self._append(earlier)
            self._append(Pending(message, records))
            self._wake()

    def stop(self, within_seconds: float) -> Sequence[Pending]:
        """Publish the remaining messages, then close the connection and the buffer.

        Returns:
            The lost messages, oldest first: those not confirmed in time and not spooled
            for the next start. The broker may have stored those in flight.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(within_seconds)
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
            if self._closed:
                return ()
            self._closed = True
            self._close_arrays()
            lost = self._buffer.close()
        if lost:
            routes = Counter(
                f"{message.exchange}:{message.routing_key}" for message, _ in lost
            )
            logger.error(
                "%d messages were not confirmed within %g s (%s); last error: %s",
                len(lost),
                within_seconds,
                ", ".join(f"{count} to {route}" for route, count in routes.items()),
                self._last_error or "none",
            )
        return lost

    def _append(self, pending: Pending) -> None:
        """Buffer a message. This and the next four methods need the lock."""
        if not (dropped := self._buffer.append(pending)):
            return
        self._counts.dropped += sum(records for _, records in dropped)
        now = time.monotonic()
        if now - self._drop_logged_at >= _DROP_LOG_INTERVAL_SECONDS:
            self._drop_logged_at = now
            logger.error(
                "the buffer is full: %d records dropped so far, oldest first",
                self._counts.dropped,
            )

    def _close_arrays(self) -> None:
        for pending in self._arrays.close_all():
            self._append(pending)

    def _close_overdue_arrays(self) -> None:
        """Close arrays while the broker is unavailable and no batch is taken."""
        if self._arrays and time.monotonic() >= self._arrays_due_at:
            self._close_arrays()

    def _wake(self) -> None:
        """Notify the thread if the new record changes when it must act."""
        if self._due_at is None:
            self._due_at = time.monotonic() + self._batching.age_seconds
            self._changed.notify_all()
        elif self._batch_is_full:
            self._changed.notify_all()

    @property
    def _batch_is_full(self) -> bool:
        return (
            self._buffer.waiting >= self._batching.count
            or self._buffer.waiting_bytes >= self._batching.size_bytes
        )

    def _run(self) -> None:
        """Run the producer's thread, which alone calls the methods below."""
        try:
            if not self._publish(()):
                return
            with self._changed:
                self._connected = True
                self._changed.notify_all()
            while batch := self._next_batch():
                if not self._publish(batch):
                    return
        finally:
            self._publisher.close()

    def _next_batch(self) -> Sequence[Pending]:
        """Wait for a batch; return an empty one when stopping and all is published."""
        with self._changed:
            while not self._abandoned:
                now = time.monotonic()
                overdue = self._due_at is not None and now >= self._due_at
                if overdue or self._stopping:
                    self._close_arrays()
                if overdue or self._stopping or self._batch_is_full:
                    batch = self._buffer.take(
                        self._batching.count, self._batching.size_bytes
                    )
                    if not self._buffer.waiting and not self._arrays:
                        self._due_at = None
                    self._changed.notify_all()  # the buffer has room again
                    if batch or self._stopping:
                        return batch
                self._changed.wait(None if self._due_at is None else self._due_at - now)
            return ()

    def _publish(self, batch: Sequence[Pending]) -> bool:
        """Publish until confirmed; return false if :meth:`stop` gave up waiting."""
        messages = [pending.message for pending in batch]
        misfits: list[Outgoing] = []
        failed_attempts = 0
        while (unroutable := self._attempt(messages, misfits)) is None:
            if not self._wait_for_broker(failed_attempts):
                return False
            failed_attempts += 1
        if failed_attempts:
            logger.info("the broker is back after %d attempts", failed_attempts)
        return self._resolve(batch, unroutable, misfits, resent=failed_attempts > 0)

    def _attempt(
        self, messages: list[Outgoing], misfits: list[Outgoing]
    ) -> frozenset[Route] | None:
        """Publish once; return the routes without a queue, or None if it failed.

        Messages that can never be published move to ``misfits``.
        """
        try:
            self._publisher.publish(messages)
        except Unroutable as error:
            return error.routes
        except PublishRefused as error:
            self._last_error = str(error)
            logger.error("the broker did not take a part of a batch: %s", error)  # noqa: TRY400 - foreseen
            found = set(map(id, error.misfits))
            misfits += [each for each in messages if id(each) in found]
            messages[:] = [each for each in messages if id(each) not in found]
            return error.routes if len(found) == len(error.refused) else None
        except Transient as error:
            self._last_error = str(error)
            logger.warning("the broker did not take a batch: %s", error)
            return None
        except Exception as error:
            # Without this, an unexpected error would end the thread, and nothing
            # would be published any more.
            self._last_error = f"{type(error).__name__}: {error}"
            logger.exception("publishing failed")
            return None
        return frozenset()

    def _wait_for_broker(self, attempt: int) -> bool:
        """Save the buffer and wait for the next attempt.

        Return false if :meth:`stop` gave up waiting.
        """
        delay = self._backoff.delay_seconds(attempt)
        with self._changed:
            if not self._abandoned:
                self._buffer.keep()
            if self._stopping:
                delay = min(delay, _STOPPING_DELAY_SECONDS)
            running = not self._stopping
            ends_at = time.monotonic() + delay
            while (
                (remaining := ends_at - time.monotonic()) > 0
                and not self._abandoned
                and not (running and self._stopping)
            ):
                self._close_overdue_arrays()
                self._changed.wait(min(remaining, self._batching.age_seconds))
            return not self._abandoned

    def _resolve(
        self,
        batch: Sequence[Pending],
        unroutable: frozenset[Route],
        misfits: Sequence[Outgoing],
        *,
        resent: bool,
    ) -> bool:
        refused = set(map(id, misfits))
        confirmed: list[Pending] = []
        lost = 0
        with self._changed:
            if self._abandoned:
                return False  # stop() has reported them as not confirmed
            self._buffer.resolve()
            counts = self._counts
            for pending in batch:
                message, records = pending
                if id(message) in refused:
                    counts.dropped += records
                elif (message.exchange, message.routing_key) in unroutable:
                    lost += records
                else:
                    confirmed.append(pending)
                    counts.confirmed += records
            counts.messages += len(confirmed)
            counts.unroutable += lost
            counts.resent += len(batch) if resent else 0
            self._changed.notify_all()
        if lost:
            logger.error("%d records are not stored: %s", lost, Unroutable(unroutable))
        if self._on_confirmed and confirmed:
            self._on_confirmed(confirmed)
        return True


def _check(routing_key: str, body: bytes) -> None:
    if len(routing_key.encode()) > MAX_ROUTING_KEY_BYTES:
        message = f"routing key is longer than {MAX_ROUTING_KEY_BYTES} bytes"
        raise ValueError(message)
    if len(body) > MAX_BODY_BYTES:
        message = f"body of {len(body)} bytes is larger than {MAX_BODY_BYTES}"
        raise ValueError(message)
