"""Results of batches: failures of messages, folded from the outcomes of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from meshtasks.outcome import Dead, Done, Outcome, Retry
from meshtasks.state.sensor_activity import Seen
from meshtasks.text import clip
from meshtasks.timing import SinkCall
from meshtasks.worker.decode import Several

#: Beginning of the result of a batch that only found a sink unavailable.
WAITING_FOR = "waiting for"

#: Failed records of a message: index in the message, and outcome.
FailedRecords = list[tuple[int, Retry | Dead]]
#: How many reasons, and how many characters of each, are quoted in a dead letter of
#: many records.
_QUOTED = 3
_QUOTED_CHARS = 200


class Failure(NamedTuple):
    """A message, or some of its records, whose outcome is not ``Done``.

    Attributes:
        position: position of the message in the batch.
        outcome: the reason, and what to do.
        body: JSON of the failed records, if not the whole message failed.
        record_index: index of the record, if it is a single record of an array.
    """

    position: int
    outcome: Retry | Dead
    body: bytes | None = None
    record_index: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class BatchResult:
    """Result of a batch; only failures are listed.

    Attributes:
        messages: number of messages in the batch.
        records: number of valid records in them.
        failures: failures in order of the messages; empty if all are done.
        seconds: time in the pool, including decoding and sinks.
        sink_calls: calls of sinks by the handler.
        empty: number of MQTT messages without a body.
        deferred: failures of sinks whose part of the batch now waits in their queues.
        done: number of records that are done.
        aside: number of these whose points wait in a queue.
        seen: activity of each sensor in the batch.
    """

    messages: int
    records: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    sink_calls: tuple[SinkCall, ...] = ()
    empty: int = 0
    deferred: tuple[Retry, ...] = ()
    done: int = 0
    aside: int = 0
    seen: tuple[Seen, ...] = ()

    @property
    def dead(self) -> int:
        """Number of failures that go to the dead-letter queue."""
        return sum(isinstance(failure.outcome, Dead) for failure in self.failures)

    @property
    def worst(self) -> Retry | Dead | None:
        """The first dead letter; else the first retry, if all messages are retried."""
        outcomes = [failure.outcome for failure in self.failures]
        if self.dead:
            return next(each for each in outcomes if isinstance(each, Dead))
        return outcomes[0] if outcomes and self._failed == self.messages else None

    @property
    def _failed(self) -> int:
        return len({failure.position for failure in self.failures})

    @property
    def waits_for(self) -> str:
        """Name of the unavailable sink for which all messages wait; empty if none."""
        outcomes = [failure.outcome for failure in self.failures]
        sinks = {each.sink for each in outcomes if isinstance(each, Retry)}
        if len(outcomes) == self.messages and not self.dead and len(sinks) == 1:
            return sinks.pop() or ""
        return ""

    @override
    def __repr__(self) -> str:
        """Return the line that Flower shows as the result of the task."""
        if sink := self.waits_for:
            return f"{WAITING_FOR} {sink}: {self.messages} messages"
        retry = len(self.failures) - self.dead
        done = self.messages - self._failed
        line = f"{self.messages} messages: done={done} dead={self.dead} retry={retry}"
        return (
            line if self.records <= self.messages else f"{line}, {self.records} records"
        )


def by_message(
    records: Iterable[tuple[Outcome, int, int | None]], bad: Mapping[int, FailedRecords]
) -> tuple[list[Failure], dict[int, FailedRecords]]:
    """Return the messages that failed as a whole, and the failed records of others.

    Args:
        records: for each record, its outcome, position of its message, index in it.
        bad: records that have failed before, by position of the message.
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


def fold(
    message: int, failed: FailedRecords, form: Several, max_dead_records: int
) -> list[Failure]:
    """Fold the failed records of one message into a dead letter for each record (or one
    for all, if there are more than ``max_dead_records``), and one retry."""
    members = form.members()
    dead = [(index, each) for index, each in failed if isinstance(each, Dead)]
    retries = [(index, each) for index, each in failed if isinstance(each, Retry)]
    if len(dead) > max_dead_records:
        failures = [_part(message, dead, _all_of(dead, len(members)), members, form)]
    else:
        failures = [
            Failure(message, each, members[index], index) for index, each in dead
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
    """Return one failure for some records of a message."""
    if len(failed) == len(members):
        return Failure(message, outcome)
    body = form.message_of([members[index] for index, _ in failed])
    return Failure(message, outcome, body)


def _all_of(dead: Sequence[tuple[int, Dead]], total: int) -> Dead:
    """Return one outcome for many dead records of a message."""
    told = "; ".join(
        f"[{index}] {clip(each.reason, _QUOTED_CHARS)}"
        for index, each in dead[:_QUOTED]
    )
    reason = f"{len(dead):,} of {total:,} records, the first of them: {told}"
    return Dead(reason, dead[0][1].error_type, dead[0][1].traceback)
