"""What handlers of readings have in common once their points are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from meshtasks.domain.archiving import ArchivePolicy, archive_messages
from meshtasks.domain.envelope import Envelope
from meshtasks.domain.evaluation import Watched, evaluate
from meshtasks.messaging.publisher import Outgoing
from meshtasks.sinks import Sinks
from meshtasks.tasks.registry import Batch

R = TypeVar("R")

ALERTS_EXCHANGE = "alerts"


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
    lines = list(_archive_lines(batch, stored, to_json, sinks.settings.archive))
    if lines:
        messages = archive_messages(lines, batch.queue)
        sinks.publisher.publish([Outgoing(*message) for message in messages])


def _archive_lines(
    batch: Batch[R],
    stored: Iterable[tuple[int, float]],
    to_json: Callable[[R], bytes],
    policy: ArchivePolicy,
) -> Iterator[bytes]:
    envelope: Envelope | None = None
    selected = in_array = False
    twins: dict[bytes, int] = {}
    for index, time in stored:
        if batch.envelopes[index] is not envelope:
            envelope = batch.envelopes[index]
            selected = policy.selects(envelope.routing_key)
            in_array = envelope.body.lstrip()[:1] == b"["
            twins = {}
        if not selected:
            continue
        record = to_json(batch.records[index]) if in_array else envelope.body
        # Twins are told apart by number, not by their place in the array: failed
        # members are retried without the others, and change places.
        twin = twins[record] = twins.get(record, -1) + 1
        if (line := policy.line(envelope, record, twin, time)) is not None:
            yield line
