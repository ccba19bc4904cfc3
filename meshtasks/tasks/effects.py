"""What handlers have in common: points, alerts, the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from meshtasks.domain.archiving import archive_messages
from meshtasks.domain.envelope import Envelope
from meshtasks.domain.errors import MeshError, SinkRejected
from meshtasks.domain.evaluation import Watched, evaluate
from meshtasks.domain.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.domain.readings import Transformed
from meshtasks.messaging.publisher import Outgoing
from meshtasks.sinks import Sinks
from meshtasks.tasks.registry import Batch

R = TypeVar("R")

ALERTS_EXCHANGE = "alerts"


def store_points(
    batch: Batch[R], points: Transformed, to_json: Callable[[R], bytes], sinks: Sinks
) -> list[Outcome]:
    """Store the points of a batch, look at them with the rules, and archive the
    selected records: what one record ends in does not touch the others.

    Args:
        batch: the batch.
        points: what has become of it.
        to_json: see :func:`send_to_archive`.
        sinks: the process's sinks.
    """
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    for index, bad in points.dead.items():
        outcomes[index] = bad
    try:
        for place, reason in sinks.timeseries.write(points.lines).items():
            outcomes[points.indices[place]] = Dead(reason, SinkRejected.__name__)
        give_alerts(points.watched, batch.envelopes[-1].received_at, sinks)
        stored = {  # a record may have several points
            index: time
            for index, time in zip(points.indices, points.times, strict=True)
            if outcomes[index] is DONE
        }
        send_to_archive(batch, stored.items(), to_json, sinks)
    except MeshError as error:
        undecided = outcome_of(error)
        return [undecided if each is DONE else each for each in outcomes]
    return outcomes


def give_alerts(watched: Iterable[Watched], now: float, sinks: Sinks) -> None:
    """Evaluate the rules, and publish what begins or ends.

    The alerts are confirmed before the new states are stored: a crash in between
    gives them again with the same message ids, and never swallows one.

    Args:
        watched: series with their new samples.
        now: epoch seconds.
        sinks: the process's sinks.
    """
    ruled = [each for each in watched if each.rules]
    if not ruled:
        return
    keys = [each.series.key for each in ruled]
    with sinks.rule_state.transaction(keys, now) as states:
        messages: list[Outgoing] = []
        for series, rules, samples in ruled:
            state = states.get(series.key)
            states[series.key], alerts = evaluate(rules, series, state, samples, now)
            messages += [
                Outgoing(
                    ALERTS_EXCHANGE,
                    alert.routing_key,
                    alert.model_dump_json().encode(),
                    message_id=alert.event_id,
                    timestamp=now,
                )
                for alert in alerts
            ]
        if messages:
            sinks.publisher.publish(messages)


def send_to_archive(
    batch: Batch[R],
    stored: Iterable[tuple[int, float]],
    to_json: Callable[[R], bytes],
    sinks: Sinks,
) -> None:
    """Publish the records that the archive policy selects.

    Args:
        batch: the batch.
        stored: index in the batch and time (epoch seconds) of the records that
            may be archived.
        to_json: encodes a record. A message that is one record is archived as it
            was written; members of an array are encoded again, which is faster
            than looking for where they were.
        sinks: the process's sinks.
    """
    policy = sinks.settings.archive
    lines = [
        line
        for each in written(batch, stored, to_json, policy.selects)
        if (line := policy.line(each.envelope, each.json, each.twin, each.time))
    ]
    if lines:
        messages = archive_messages(lines, batch.queue)
        sinks.publisher.publish([Outgoing(*message) for message in messages])


class Written(NamedTuple):
    """One record of a batch, as it is identified and archived.

    Attributes:
        place: in the batch.
        envelope: the message it came in.
        json: the record.
        twin: how many records just like it come before it in the message.
        time: epoch seconds; when it was made.
    """

    place: int
    envelope: Envelope
    json: bytes
    twin: int
    time: float


def written(
    batch: Batch[R],
    made: Iterable[tuple[int, float]],
    to_json: Callable[[R], bytes],
    is_wanted: Callable[[str], bool],
) -> Iterator[Written]:
    """The wanted records of a batch.

    Args:
        batch: the batch.
        made: index in the batch and time (epoch seconds) of records, in order.
        to_json: see :func:`send_to_archive`.
        is_wanted: tells by routing key.
    """
    envelope: Envelope | None = None
    wanted = in_array = False
    twins: dict[bytes, int] = {}
    for index, time in made:
        if batch.envelopes[index] is not envelope:
            envelope = batch.envelopes[index]
            wanted = is_wanted(envelope.routing_key)
            in_array = envelope.body.lstrip()[:1] == b"["
            twins = {}
        if not wanted:
            continue
        record = to_json(batch.records[index]) if in_array else envelope.body
        # Twins are told apart by number, not by their place in the array: failed
        # members are retried without the others, and change places.
        twin = twins[record] = twins.get(record, -1) + 1
        yield Written(index, envelope, record, twin, time)
