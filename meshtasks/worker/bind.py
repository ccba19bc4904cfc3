"""What runs in the pool: decode a batch, call its handler, fold the outcomes.

The consuming process only moves bytes; everything that looks into a message
happens here, so that it costs the pool and not the consumer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from typing_extensions import override

from meshtasks.domain.errors import InvalidMessage
from meshtasks.domain.json_text import array_members
from meshtasks.domain.outcome import DONE, Dead, Done, Outcome, Retry, outcome_of
from meshtasks.messaging.codec import Wire, envelope_of
from meshtasks.settings import Settings
from meshtasks.sinks import Sinks
from meshtasks.sinks.timing import SinkCall, listening
from meshtasks.tasks.registry import Batch, Handler, Timer
from meshtasks.worker.decode import Decoder, Several

#: How the result of a batch begins that only found a sink in trouble.
WAITING_FOR = "waiting for"

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """A message, or some records of it, that did not end in ``Done``.

    Attributes:
        position: of the message in the batch.
        outcome: why, and what to do.
        body: JSON of the failed records when not the whole message failed.
        record_index: place of the record when it is a single one of an array.
    """

    position: int
    outcome: Retry | Dead
    body: bytes | None = None
    record_index: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class BatchResult:
    """What became of a batch; only failures are listed.

    Attributes:
        messages: messages in the batch.
        records: valid records in them.
        failures: in order of the messages; empty when all are done.
        seconds: it took in the pool, decoding and sinks included.
        sink_calls: what its handler asked of sinks.
    """

    messages: int
    records: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    sink_calls: tuple[SinkCall, ...] = ()

    @property
    def dead(self) -> int:
        """Failures that go to the dead-letter queue."""
        return sum(isinstance(failure.outcome, Dead) for failure in self.failures)

    @property
    def waits_for(self) -> str:
        """The sink in trouble that all of it has to wait for; empty if none is."""
        outcomes = [failure.outcome for failure in self.failures]
        sinks = {each.sink for each in outcomes if isinstance(each, Retry)}
        if len(outcomes) == self.messages and not self.dead and len(sinks) == 1:
            return sinks.pop() or ""
        return ""

    @override
    def __repr__(self) -> str:
        """The line that Flower shows as the task's result."""
        if sink := self.waits_for:
            return f"{WAITING_FOR} {sink}: {self.messages} messages"
        retry = len(self.failures) - self.dead
        done = self.messages - len({failure.position for failure in self.failures})
        line = f"{self.messages} messages: done={done} dead={self.dead} retry={retry}"
        return (
            line if self.records <= self.messages else f"{line}, {self.records} records"
        )


_ARRAY = Several(b"")


class BatchRunner:
    """Runs the batches of one queue with its handler.

    Args:
        handler: the queue's handler.
        settings: the sinks are opened from these, once per thread.
    """

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._handler = handler
        self._settings = settings
        self._decoder = Decoder(handler)

    def __call__(self, wires: list[Wire]) -> BatchResult:
        """Decode, handle, fold; take the time of it."""
        began = time.perf_counter()
        with listening() as calls:
            records, failures = self._run(wires)
        seconds = time.perf_counter() - began
        return BatchResult(len(wires), records, tuple(failures), seconds, tuple(calls))

    def _run(self, wires: list[Wire]) -> tuple[int, list[Failure]]:
        """The number of valid records, and what failed in order of the messages."""
        queue = self._handler.queue
        batch: Batch[Any] = Batch(queue, [], [], [])
        positions: list[int] = []  # of the records' messages
        failures: list[Failure] = []
        several: dict[int, Several] = {}  # by position
        for position, wire in enumerate(wires):
            body = wire[0]
            try:
                if body[:1] == b"{":
                    try:
                        record = self._decoder.decode_object(body)
                    except InvalidMessage as error:
                        decoded = self._decoder.decode_several(body, error)
                    else:
                        batch.records.append(record)
                        batch.envelopes.append(envelope_of(wire, queue))
                        batch.places.append(None)
                        positions.append(position)
                        continue
                else:
                    decoded = self._decoder.decode(body)
            except InvalidMessage as error:
                dead = Dead(str(error), type(error).__name__)
                failures.append(Failure(position, dead))
                continue
            envelope = envelope_of(wire, queue)
            if decoded.several is not None:
                several[position] = decoded.several
                envelope = envelope._replace(body=decoded.several.array)
            batch.records.extend(decoded.records)
            batch.envelopes.extend(repeat(envelope, len(decoded.records)))
            batch.places.extend(decoded.places)
            positions.extend(repeat(position, len(decoded.records)))
            if decoded.bad:
                members = _members(position, wires, several)
                failures += [
                    Failure(position, fault.dead, members[fault.place], fault.place)
                    for fault in decoded.bad
                ]
        outcomes = self._handle(batch)
        if outcomes.count(DONE) < len(outcomes):
            failures += _fold(outcomes, positions, batch.places, wires, several)
        failures.sort(key=lambda failure: failure.position)
        return len(batch.records), failures

    def _handle(self, batch: Batch[Any]) -> list[Outcome]:
        """One outcome per record, whatever the handler does."""
        count = len(batch.records)
        if not count:
            return []
        try:
            outcomes = self._handler.handle(batch, thread_sinks(self._settings))
        except Exception as error:  # noqa: BLE001 - any fault of a handler is an outcome
            return [_fate(error, f"the handler of {batch.queue}")] * count
        if len(outcomes) == count:
            return outcomes
        reason = (
            f"the handler of {batch.queue} gave {len(outcomes)} outcomes for "
            f"{count} records: a bug in that handler"
        )
        logger.error("%s", reason)
        return [Retry(reason, "HandlerFault")] * count


def _members(
    message: int, wires: list[Wire], several: Mapping[int, Several]
) -> Sequence[bytes]:
    """The members of a message, each exactly as it came."""
    if form := several.get(message):
        return form.members()
    return array_members(wires[message][0])


def _fate(error: Exception, who: str) -> Retry | Dead:
    """What an exception stands for; one that nobody foresaw is in the log."""
    outcome = outcome_of(error)
    if outcome.traceback:
        logger.error("%s failed: %s", who, outcome.reason, exc_info=error)
    return outcome


def _fold(
    outcomes: list[Outcome],
    positions: list[int],
    places: list[int | None],
    wires: list[Wire],
    several: Mapping[int, Several],
) -> list[Failure]:
    """Outcomes per record become failures per message."""
    failures: list[Failure] = []
    to_retry: dict[int, list[tuple[int, Retry]]] = {}
    for outcome, message, record in zip(outcomes, positions, places, strict=True):
        if record is None:
            if not isinstance(outcome, Done):
                failures.append(Failure(message, outcome))
            continue
        match outcome:
            case Dead():
                body = _members(message, wires, several)[record]
                failures.append(Failure(message, outcome, body, record))
            case Retry():
                to_retry.setdefault(message, []).append((record, outcome))
            case Done():
                pass
    for message, retries in to_retry.items():
        slices = _members(message, wires, several)
        outcome = next((each for _, each in retries if each.tried), retries[0][1])
        if len(retries) == len(slices):
            failures.append(Failure(message, outcome))
        else:
            failed = [slices[record] for record, _ in retries]
            form = several.get(message, _ARRAY)
            body = form.message_of(failed)
            failures.append(Failure(message, outcome, body))
    return failures


_local = threading.local()


def thread_sinks(settings: Settings) -> Sinks:
    """The sinks of this thread of this process; a forked child opens its own."""
    if getattr(_local, "pid", None) != os.getpid():
        _local.pid = os.getpid()
        _local.sinks = Sinks(settings)
    sinks: Sinks = _local.sinks
    return sinks


def run_timer(timer: Timer, settings: Settings) -> Retry | Dead | None:
    """Run a timer with sinks of its own; return what went wrong, if anything did."""
    try:
        with closing(Sinks(settings)) as sinks:
            timer.run(sinks)
    except Exception as error:  # noqa: BLE001 - a timer must go on, whatever happens
        return _fate(error, "a timer")
    return None
