"""What became of a batch: its failures, folded from the outcomes of its records."""

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

#: How the result of a batch begins that only found a sink in trouble.
WAITING_FOR = "waiting for"

#: What failed of a message: the places of the records in it, and why.
FailedRecords = list[tuple[int, Retry | Dead]]
#: Of many dead records of one message, so many are quoted, each so far.
_QUOTED = 3
_QUOTED_CHARS = 200


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
        deferred: what was found of sinks whose part of it now waits in their queues.
        done: records that are done.
        aside: those of them whose points wait in a queue.
        seen: what the batch had of each sensor.
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
        """Failures that go to the dead-letter queue."""
        return sum(isinstance(failure.outcome, Dead) for failure in self.failures)

    @property
    def worst(self) -> Retry | Dead | None:
        """The first dead letter; else the first retry, if all messages go back to
        wait."""
        outcomes = [failure.outcome for failure in self.failures]
        if self.dead:
            return next(each for each in outcomes if isinstance(each, Dead))
        return outcomes[0] if outcomes and self._failed == self.messages else None

    @property
    def _failed(self) -> int:
        return len({failure.position for failure in self.failures})

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
        done = self.messages - self._failed
        line = f"{self.messages} messages: done={done} dead={self.dead} retry={retry}"
        return (
            line if self.records <= self.messages else f"{line}, {self.records} records"
        )


def by_message(
    records: Iterable[tuple[Outcome, int, int | None]], bad: Mapping[int, FailedRecords]
) -> tuple[list[Failure], dict[int, FailedRecords]]:
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


def fold(
    message: int, failed: FailedRecords, form: Several, max_dead_records: int
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
