"""Runs a batch in the pool: decodes it, calls the handler, and folds the outcomes.

The consuming process only moves bytes. All work on the content of messages is done
here, so that the pool does it and not the consuming process.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeVar

from celery.exceptions import WorkerShutdown, WorkerTerminate
from msgspec.structs import replace

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Wire
from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Done, Outcome, Retry, dead_of, outcome_of
from meshtasks.records.envelope import envelope_of
from meshtasks.records.json_text import plain_body
from meshtasks.text import described, masked
from meshtasks.timing import listening
from meshtasks.worker.decode import Decoder, Several
from meshtasks.worker.results import (
    BatchResult,
    FailedRecords,
    Failure,
    by_message,
    fold,
)

logger = logging.getLogger(__name__)


class HandlerFault(AssertionError):
    """A handler violated its contract."""


#: Exchange of MQTT messages. A message without a body deletes a retained message; it
#: has no record, and is not an error.
_MQTT_EXCHANGE = "amq.topic"
#: Maximum length of the name of an error's class.
_LONGEST_NAME = 100
#: Number of consecutive records, handled one by one, that fail transiently, after which
#: the remaining records are not tried. The cause is then not in single records, and
#: each attempt may take long.
_HOPELESS = 3


@dataclass(slots=True)
class _Read:
    """The content of messages.

    Attributes:
        batch: valid records.
        positions: for each record, the position of its message.
        indexes: a copy of the indexes in the batch, which the handler may change.
        failures: messages without a valid record.
        several: form of messages of several records that are not an array, by position
            of the message.
        bad: invalid records, by position of the message.
        empty: number of MQTT messages without a body.
    """

    batch: Batch[Any]
    positions: list[int] = field(default_factory=list)
    indexes: list[int | None] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    several: dict[int, Several] = field(default_factory=dict)
    bad: dict[int, FailedRecords] = field(default_factory=dict)
    empty: int = 0


class BatchRunner:
    """Runs the batches of one queue with its handler.

    Args:
        handler: handler of the queue.
        settings: settings with which the sinks are opened, once per thread.
    """

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._handler = handler
        self._settings = settings
        limits = settings.read(QUEUES).for_queue(handler.queue)
        self._decoder = Decoder(handler, limits.max_records)
        self._max_dead_records = limits.max_dead_records
        self._max_message_bytes = limits.max_message_bytes
        self._max_retries = limits.retry.max_retries
        self._logged: set[str] = set()  # class names of errors

    def __call__(self, wires: list[Wire], away: Collection[str] = ()) -> BatchResult:
        """Decode and handle a batch, fold its outcomes, and measure the time.

        Args:
            wires: the messages.
            away: names of sinks that must not be called, if the handler defers.
        """
        began = time.perf_counter()
        sinks = thread_sinks(self._settings)
        sinks.away = away if self._handler.defers else None
        sinks.deferred, sinks.seen, sinks.aside = [], [], 0
        with listening() as calls:
            records, failures, empty, done = self._run(wires)
        seconds = time.perf_counter() - began
        return BatchResult(
            messages=len(wires),
            records=records,
            failures=tuple(failures),
            seconds=seconds,
            sink_calls=tuple(calls),
            empty=empty,
            deferred=tuple(sinks.deferred),
            done=done,
            aside=sinks.aside,
            seen=tuple(sinks.seen),
        )

    def _run(self, wires: list[Wire]) -> tuple[int, list[Failure], int, int]:
        """Return the number of valid records, the failures in order of the messages,
        the number of empty MQTT messages, and the number of records done."""
        read = self._read(wires)
        batch, failures, count = read.batch, read.failures, len(read.positions)
        outcomes = self._handle(batch, lambda: self._read(wires).batch)
        done = outcomes.count(DONE)
        if read.bad or done < count:
            records = zip(outcomes, read.positions, read.indexes, strict=True)
            whole, parts = by_message(records, read.bad)
            failures += whole
            for position, failed in parts.items():
                form = read.several.get(position) or Several(wires[position][0])
                failures += fold(position, failed, form, self._max_dead_records)
        failures.sort(key=lambda failure: failure.position)
        return count, failures, read.empty, done

    def _read(self, wires: list[Wire]) -> _Read:
        """Decode messages into valid records, and reasons for the others."""
        queue = self._handler.queue
        read = _Read(Batch(queue, [], [], []))
        batch = read.batch
        decode_object = self._decoder.decode_object
        add_record, add_envelope = batch.records.append, batch.envelopes.append
        add_index, add_position = batch.indexes.append, read.positions.append
        for position, wire in enumerate(wires):
            body = wire[0]
            if body[:1] != b"{":
                self._read_other(read, wires, position)
                continue
            try:
                record = decode_object(body)
            except InvalidMessage as error:
                self._read_other(read, wires, position, error)
                continue
            add_record(record)
            add_envelope(envelope_of(wire, queue))
            add_index(None)
            add_position(position)
        read.indexes = [*batch.indexes]
        return read

    def _read_other(
        self,
        read: _Read,
        wires: list[Wire],
        position: int,
        fault: InvalidMessage | None = None,
    ) -> None:
        """Read a message that is not one valid object. Bytes around its JSON are
        removed from the wire as well, for later readers of the body.

        Args:
            fault: why a body that begins as an object is not a record.
        """
        body, exchange, *_ = wire = wires[position]
        if not body and exchange == _MQTT_EXCHANGE:
            read.empty += 1
            return
        try:
            if fault is not None:
                decoded = self._decoder.decode_several(body, fault)
            else:
                plain = plain_body(body, self._max_message_bytes)
                if plain is not body:
                    wire = wires[position] = (plain, *wire[1:])
                decoded = self._decoder.decode(plain)
        except InvalidMessage as error:
            read.failures.append(Failure(position, dead_of(error)))
            return
        envelope = envelope_of(wire, self._handler.queue)
        if decoded.several is not None:
            read.several[position] = decoded.several
            envelope = replace(envelope, body=decoded.several.array)
        count = len(decoded.records)
        read.batch.records.extend(decoded.records)
        read.batch.envelopes.extend(repeat(envelope, count))
        read.batch.indexes.extend(decoded.indexes)
        read.positions.extend(repeat(position, count))
        if decoded.bad:
            read.bad[position] = [*decoded.bad]

    def _handle(
        self, batch: Batch[Any], again: Callable[[], Batch[Any]] | None = None
    ) -> list[Outcome]:
        """Return one outcome per record, whatever the handler does.

        If a whole batch would be dead because of some records, its records are handled
        one by one instead. An unexpected exception may be transient, so the batch is
        retried. If some messages have been tried before, its records are handled one by
        one as well, so that the good ones are not given up with the one that fails.

        Args:
            batch: the records.
            again: decodes the records again, because the handler may have changed them;
                None for a single record of a batch that failed, whose error is logged.
        """
        count = len(batch.records)
        if not count:
            return []
        try:
            return self._outcomes(batch, count)
        except (WorkerShutdown, WorkerTerminate):
            raise
        except BaseException as error:  # noqa: BLE001 - any fault of a handler is an outcome
            fate = self._fate(error, one_of_many=again is None)
        if count == 1 or again is None:
            return [fate] * count
        batch = again()
        if isinstance(fate, Retry) and not (fate.traceback and self._was_tried(batch)):
            return [fate] * count
        return self._one_by_one(batch)

    def _was_tried(self, batch: Batch[Any]) -> bool:
        """Whether some messages have used up a retry, or there are no retries."""
        return not self._max_retries or any(
            headers.ATTEMPT in envelope.headers for envelope in batch.envelopes
        )

    def _one_by_one(self, batch: Batch[Any]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        in_a_row = 0
        for record, envelope, index in zip(
            batch.records, batch.envelopes, batch.indexes, strict=True
        ):
            last = outcomes[-1] if outcomes else None
            if isinstance(last, Retry) and in_a_row >= _HOPELESS:
                outcomes.append(dataclasses.replace(last, tried=False))
                continue
            one = Batch(batch.queue, [record], [envelope], [index])
            outcomes += self._handle(one)
            in_a_row = in_a_row + 1 if isinstance(outcomes[-1], Retry) else 0
        return outcomes

    def _outcomes(self, batch: Batch[Any], count: int) -> list[Outcome]:
        given: Any = self._handler.handle(batch, thread_sinks(self._settings))
        if not isinstance(given, list | tuple):
            what = "None" if given is None else f"a {type(given).__name__}"
            message = f"the handler gave {what}, not a list of outcomes"
            raise HandlerFault(message)
        if len(given) != count:
            message = f"the handler gave {len(given)} outcomes for {count} records"
            raise HandlerFault(message)
        if given.count(DONE) == count:
            return [*given]
        return [_plain(each) for each in given]

    def _fate(self, error: BaseException, *, one_of_many: bool) -> Retry | Dead:
        """Return the outcome that an exception of the handler means. An unexpected
        exception is logged, with its traceback if its class is new."""
        outcome = _plain(outcome_of(error))
        kind = outcome.error_type
        if outcome.traceback and not (one_of_many and kind in self._logged):
            queue = self._handler.queue
            text = "" if kind in self._logged else f"\n{outcome.traceback}"
            self._logged.add(kind)
            logger.error(
                "The handler of %s failed: %s: %s%s", queue, kind, outcome.reason, text
            )
        return outcome


_O = TypeVar("_O", bound=Outcome)


def _plain(outcome: _O) -> _O:
    """Return an outcome that is safe for the consuming process and for headers: texts
    without secrets, and a finite number of seconds. A flow may have set any value.

    Raises:
        HandlerFault: it is not an outcome.
    """
    match outcome:
        case Done():
            return outcome
        case Dead():
            return dataclasses.replace(outcome, **_texts(outcome))
        case Retry():
            seconds = outcome.retry_after_seconds
            is_wait = isinstance(seconds, int | float) and 0 <= seconds < math.inf
            return dataclasses.replace(
                outcome,
                **_texts(outcome),
                sink=None if outcome.sink is None else str(outcome.sink),
                retry_after_seconds=seconds if is_wait else None,
                tried=bool(outcome.tried),
            )
    message = f"the handler gave {described(outcome)} as an outcome"
    raise HandlerFault(message)


def _texts(outcome: Dead | Retry) -> dict[str, str]:
    texts = {
        "reason": masked(str(outcome.reason)),
        "error_type": str(outcome.error_type)[:_LONGEST_NAME],
        "traceback": masked(str(outcome.traceback)),
    }
    return {
        name: text.encode("utf-8", "replace").decode() for name, text in texts.items()
    }


_local = threading.local()


def thread_sinks(settings: Settings) -> Sinks:
    """Return the sinks of this thread and process; a forked child opens its own."""
    if getattr(_local, "pid", None) != os.getpid():
        _local.pid = os.getpid()
        _local.sinks = Sinks(settings)
    sinks: Sinks = _local.sinks
    return sinks
