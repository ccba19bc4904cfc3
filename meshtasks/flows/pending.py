"""Points that wait in the broker while the time-series store is unavailable.

A handler that finds the store unavailable publishes the lines of its batch to the queue
``pending.timeseries``, with confirms, and continues: rules, alerts and archive do not
wait. The handler of that queue writes the lines when the store is available. The order
of points does not matter, and a point that is written twice is the same point.

A message is a JSON array of entries, one per record: its lines, and the original record
with everything that its dead letter needs if the store rejects a line. Its batches run
in a thread of the consuming process, so that a store that hangs does not block the
pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NotRequired

import msgspec
from typing_extensions import TypedDict

from meshtasks.amqp.dead_letters import FailedMessage
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.headers import as_json, from_json
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import PENDING_TIMESERIES
from meshtasks.errors import MeshError, SinkRejected, SinkUnavailable
from meshtasks.flows.contract import Batch, Flow, handles
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES, Sinks
from meshtasks.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import array_members, arrays_of, members_of
from meshtasks.text import without_surrogates
from meshtasks.timing import timing

#: Largest message of several entries; a larger entry has a message of its own.
_MESSAGE_LIMIT_BYTES = 256 * 1024


class PendingRecord(TypedDict):
    """The JSON of an entry; the members are those of :class:`_Entry`."""

    lines: list[str]
    queue: str
    exchange: str
    routing_key: str
    received_at: float
    body: str
    place: NotRequired[int | None]
    message_id: NotRequired[str | None]
    timestamp: NotRequired[float | None]
    headers: NotRequired[dict[str, Any] | None]


class _Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """An entry; the members are in the order of the JSON.

    Attributes:
        lines: points of the record in line protocol.
        queue: queue from which the record was consumed.
        exchange: exchange of first publication.
        routing_key: routing key of first publication.
        received_at: time of first receipt, epoch seconds.
        body: body of the message; of an array, the record only.
        place: index of the record in its array; None if the message is not an array.
        message_id: id of the message.
        timestamp: time that its publisher set, epoch seconds.
        headers: headers of the message, as :func:`~meshtasks.amqp.headers.as_json`
            writes them.
    """

    lines: list[str]
    queue: str
    exchange: str
    routing_key: str
    received_at: float
    body: str
    place: int | None = None
    message_id: str | None = None
    timestamp: float | None = None
    headers: dict[str, Any] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Entry).decode


def put_aside(
    batch: Batch[Any], indices: Sequence[int], lines: Sequence[str], sinks: Sinks
) -> None:
    """Publish points to the queue in which they wait.

    Args:
        batch: the batch of their records.
        indices: for each point, the index of its record in the batch, ascending.
        lines: the points in line protocol (same length as ``indices``).
        sinks: gives the publisher.

    Raises:
        SinkUnavailable: the queue is full, or the broker is unavailable.
    """
    bodies = arrays_of(_entries(batch, indices, lines), _MESSAGE_LIMIT_BYTES)
    messages = [Outgoing("", PENDING_TIMESERIES, body) for body in bodies]
    if not messages:
        return
    try:
        with timing(PENDING_TIMESERIES):
            sinks[PUBLISHER].publish(messages)
    except MeshError as error:
        reason = f"the queue {PENDING_TIMESERIES} takes no points: {error}"
        raise SinkUnavailable(PENDING_TIMESERIES, reason) from error


def _entries(
    batch: Batch[Any], indices: Sequence[int], lines: Sequence[str]
) -> Iterator[bytes]:
    of_record: dict[int, list[str]] = {}
    for index, line in zip(indices, lines, strict=True):
        of_record.setdefault(index, []).append(line)
    envelope: Envelope | None = None
    members: list[bytes] = []
    for index, own in of_record.items():
        place = batch.indexes[index]
        if batch.envelopes[index] is not envelope:
            envelope = batch.envelopes[index]
            members = [envelope.body] if place is None else members_of(envelope.body)
        yield _encode(
            _Entry(
                own,
                batch.queue,
                without_surrogates(envelope.exchange),
                without_surrogates(envelope.routing_key),
                envelope.received_at,
                members[place or 0].decode(),
                place,
                envelope.message_id and without_surrogates(envelope.message_id),
                envelope.timestamp,
                as_json(envelope.headers) if envelope.headers else None,
            )
        )


def originals(failing: FailedMessage) -> list[FailedMessage]:
    """The original records of entries that failed. Each is dead-lettered for the queue
    from which it was consumed."""
    body = failing.body.strip()
    try:
        members = array_members(body) if body.startswith(b"[") else [body]
        return [_original(_decode(member)) for member in members] or [failing]
    except (ValueError, msgspec.MsgspecError):  # not published by put_aside
        return [failing]


def _original(entry: _Entry) -> FailedMessage:
    body = entry.body.encode()
    properties: dict[str, Any] = {
        "content_type": "application/json",
        "message_id": entry.message_id,
        "timestamp": None if entry.timestamp is None else int(entry.timestamp),
        "application_headers": from_json(entry.headers or {}),
    }
    delivery = Delivery(
        0,
        body,
        entry.exchange,
        entry.routing_key,
        {name: value for name, value in properties.items() if value is not None},
        redelivered=False,
        received_at=entry.received_at,
    )
    return FailedMessage(delivery, entry.queue, body, entry.place)


@handles(
    PENDING_TIMESERIES,
    record=PendingRecord,
    struct=_Entry,
    sinks=(TIMESERIES,),
    in_thread=True,
    originals=originals,
)
def write_pending(batch: Batch[_Entry], sinks: Sinks) -> list[Outcome]:
    """Write points that have waited; lines that the store rejects are dead letters."""
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    indices = [n for n, entry in enumerate(batch.records) for _ in entry.lines]
    lines = [line for entry in batch.records for line in entry.lines]
    try:
        for point, reason in sinks[TIMESERIES].write(lines).items():
            outcomes[indices[point]] = Dead(reason, SinkRejected.__name__)
    except SinkUnavailable as error:
        return [outcome_of(error)] * len(outcomes)
    return outcomes


FLOW = Flow("pending", handlers=(write_pending,))
