"""What runs in the pool: decode a batch, call its handler, fold the outcomes.

The consuming process only moves bytes; everything that looks into a message
happens here, so that it costs the pool and not the consumer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from msgspec.structs import replace
from typing_extensions import override

from meshtasks.amqp.delivery import Wire
from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Batch, Handler, Timer
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import (
    DONE,
    PROGRAMMING_ERRORS,
    Dead,
    Done,
    Outcome,
    Retry,
    outcome_of,
)
from meshtasks.records.bodies import plain_body
from meshtasks.records.envelope import envelope_of
from meshtasks.text import clip
from meshtasks.timing import SinkCall, listening
from meshtasks.worker.decode import Decoded, Decoder, Several

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
        empty: messages without a body that ask for nothing.
    """

    messages: int
    records: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    sink_calls: tuple[SinkCall, ...] = ()
    empty: int = 0

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


#: What failed of a message: the places of the records in it, and why.
_Failed = list[tuple[int, Retry | Dead]]
#: Of many dead records of one message, so many are quoted, each so far.
_QUOTED = 3
_QUOTED_CHARS = 200


class HandlerFault(AssertionError):
    """A handler did not keep to its contract."""


#: Where MQTT messages come from. One without a body withdraws a retained message: it
#: says nothing, and is no fault.
_MQTT_EXCHANGE = "amq.topic"
_NOTHING = Decoded([], ())


class BatchRunner:
    """Runs the batches of one queue with its handler.

    Args:
        handler: the queue's handler.
        settings: the sinks are opened from these, once per thread.
    """

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._handler = handler
        self._settings = settings
        limits = settings.read(QUEUES).for_queue(handler.queue)
        self._decoder = Decoder(handler, limits.max_records)
        self._max_dead_records = limits.max_dead_records
        self._max_message_bytes = limits.max_message_bytes
        self._logged: set[str] = set()  # types of errors

    def __call__(self, wires: list[Wire]) -> BatchResult:
        """Decode, handle, fold; take the time of it."""
        began = time.perf_counter()
        with listening() as calls:
            records, failures, empty = self._run(wires)
        seconds = time.perf_counter() - began
        return BatchResult(
            len(wires), records, tuple(failures), seconds, tuple(calls), empty
        )

    def _run(self, wires: list[Wire]) -> tuple[int, list[Failure], int]:
        """The number of valid records, what failed in order of the messages, and the
        number of messages that say nothing."""
        queue = self._handler.queue
        batch: Batch[Any] = Batch(queue, [], [], [])
        positions: list[int] = []  # of the records' messages
        empty = 0
        failures: list[Failure] = []
        several: dict[int, Several] = {}  # by position
        bad: dict[int, _Failed] = {}  # likewise
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
                    decoded = self._decode_other(wires, position)
            except InvalidMessage as error:
                dead = Dead(str(error), type(error).__name__)
                failures.append(Failure(position, dead))
                continue
            envelope = envelope_of(wires[position], queue)  # noqa: PLR1736 - plain by now
            empty += decoded is _NOTHING
            if decoded.several is not None:
                several[position] = decoded.several
                envelope = replace(envelope, body=decoded.several.array)
            batch.records.extend(decoded.records)
            batch.envelopes.extend(repeat(envelope, len(decoded.records)))
            batch.places.extend(decoded.places)
            positions.extend(repeat(position, len(decoded.records)))
            if decoded.bad:
                bad[position] = [(place, dead) for place, dead in decoded.bad]
        outcomes = self._handle(batch)
        if bad or outcomes.count(DONE) < len(outcomes):
            records = zip(outcomes, positions, batch.places, strict=True)
            whole, parts = _by_message(records, bad)
            failures += whole
            for position, failed in parts.items():
                form = several.get(position) or Several(wires[position][0])
                failures += _fold(position, failed, form, self._max_dead_records)
        failures.sort(key=lambda failure: failure.position)
        return len(batch.records), failures, empty

    def _decode_other(self, wires: list[Wire], position: int) -> Decoded:
        """The records of a body that does not begin as an object. What is around its
        JSON is taken off the wire, too, for those who look at the body again."""
        body, exchange, *_ = wire = wires[position]
        if not body and exchange == _MQTT_EXCHANGE:
            return _NOTHING
        plain = plain_body(body, self._max_message_bytes)
        if plain is not body:
            wires[position] = (plain, *wire[1:])
        return self._decoder.decode(plain)

    def _handle(self, batch: Batch[Any], *, one_of_many: bool = False) -> list[Outcome]:
        """One outcome per record, whatever the handler does.

        An error of programming would be the same at the next attempt: the records are
        handled one by one instead, and those that meet it are dead.

        Args:
            batch: the records.
            one_of_many: it is a single record of a batch that failed, as the log knows.
        """
        count = len(batch.records)
        if not count:
            return []
        try:
            return self._outcomes(batch)
        except PROGRAMMING_ERRORS as error:
            fate = self._fate(error, one_of_many=one_of_many)
            if count == 1:
                return [fate]
        except Exception as error:  # noqa: BLE001 - any fault of a handler is an outcome
            return [self._fate(error, one_of_many=one_of_many)] * count
        ones = zip(batch.records, batch.envelopes, batch.places, strict=True)
        return [
            outcome
            for record, envelope, place in ones
            for outcome in self._handle(
                Batch(batch.queue, [record], [envelope], [place]), one_of_many=True
            )
        ]

    def _outcomes(self, batch: Batch[Any]) -> list[Outcome]:
        outcomes = self._handler.handle(batch, thread_sinks(self._settings))
        count = len(batch.records)
        if len(outcomes) != count:
            message = f"the handler gave {len(outcomes)} outcomes for {count} records"
            raise HandlerFault(message)
        return outcomes

    def _fate(self, error: Exception, *, one_of_many: bool) -> Retry | Dead:
        """What an exception of the handler stands for; one that nobody foresaw is in
        the log, with its traceback the first time that its type is met."""
        outcome = outcome_of(error)
        kind = outcome.error_type
        if outcome.traceback and not (one_of_many and kind in self._logged):
            queue = self._handler.queue
            text = "" if kind in self._logged else f"\n{outcome.traceback}"
            self._logged.add(kind)
            logger.error(
                "The handler of %s failed: %s: %s%s", queue, kind, outcome.reason, text
            )
        return outcome


def _fate(error: Exception, who: str) -> Retry | Dead:
    """What an exception stands for; one that nobody foresaw is in the log."""
    outcome = outcome_of(error)
    if outcome.traceback:
        logger.error("%s failed: %s", who, outcome.reason, exc_info=error)
    return outcome


def _by_message(
    records: Iterable[tuple[Outcome, int, int | None]], bad: Mapping[int, _Failed]
) -> tuple[list[Failure], dict[int, _Failed]]:
    """The messages that failed as a whole, and what failed of the others.

    Args:
        records: outcome of each, position of its message, place in that.
        bad: what failed already, by the position of the message.
    """
    whole: list[Failure] = []
    parts = dict(bad)
    for outcome, message, record in records:
        if isinstance(outcome, Done):
            continue
        if record is None:
            whole.append(Failure(message, outcome))
        else:
            parts.setdefault(message, []).append((record, outcome))
    return whole, parts


def _fold(
    message: int, failed: _Failed, form: Several, max_dead_records: int
) -> list[Failure]:
    """What failed of one message becomes a dead letter for each record, or one for all
    if they are many, and one retry."""
    members = form.members()
    dead = [(place, each) for place, each in failed if isinstance(each, Dead)]
    retries = [(place, each) for place, each in failed if isinstance(each, Retry)]
    if len(dead) > max_dead_records:
        failures = [_part(message, dead, _all_of(dead, len(members)), members, form)]
    else:
        failures = [
            Failure(message, each, members[place], place) for place, each in dead
        ]
    if retries:
        outcome = next((each for _, each in retries if each.tried), retries[0][1])
        failures.append(_part(message, retries, outcome, members, form))
    return failures


def _part(
    message: int,
    failed: Sequence[tuple[int, object]],
    outcome: Retry | Dead,
    members: Sequence[bytes],
    form: Several,
) -> Failure:
    """The failure of some records of a message together."""
    if len(failed) == len(members):
        return Failure(message, outcome)
    body = form.message_of([members[place] for place, _ in failed])
    return Failure(message, outcome, body)


def _all_of(dead: Sequence[tuple[int, Dead]], total: int) -> Dead:
    """Many deaths of one message as one."""
    told = "; ".join(
        f"[{place}] {clip(each.reason, _QUOTED_CHARS)}"
        for place, each in dead[:_QUOTED]
    )
    reason = f"{len(dead):,} of {total:,} records, the first of them: {told}"
    return Dead(reason, dead[0][1].error_type, dead[0][1].traceback)


_local = threading.local()


def thread_sinks(settings: Settings) -> Sinks:
    """The sinks of this thread of this process; a forked child opens its own."""
    if getattr(_local, "pid", None) != os.getpid():
        _local.pid = os.getpid()
        _local.sinks = Sinks(settings)
    sinks: Sinks = _local.sinks
    return sinks


def run_timer(timer: Timer, sinks: Sinks) -> Retry | Dead | None:
    """Run a timer, and close the sinks it has opened; return what went wrong, if
    anything did."""
    try:
        with closing(sinks):
            timer.run(sinks)
    except Exception as error:  # noqa: BLE001 - a timer must go on, whatever happens
        return _fate(error, "a timer")
    return None
