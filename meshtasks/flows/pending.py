"""Points that wait in the broker while the time-series store is away.

A handler whose store is away publishes the lines of its batch to the queue
``pending.timeseries``, confirmed, and goes on: rules, alerts and archive do not wait.
The handler of that queue writes the lines once the store answers. Order does not matter
to points, and one that is written twice is one.

A message is a JSON array of entries, one for each record: its lines, and the record as
it came, with all that its dead letter needs if the store refuses a line. Its batches
run in a thread of the consuming process, so that a store that hangs keeps no process of
the pool from handling readings.
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
from meshtasks.flows.excerpts import arrays_of
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES, Sinks
from meshtasks.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import array_members, members_of
from meshtasks.text import without_surrogates
from meshtasks.timing import timing

#: Entries are gathered up to this size; a larger one travels alone.
_MESSAGE_LIMIT_BYTES = 256 * 1024


class PendingRecord(TypedDict):
    """An entry, as JSON."""

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
    """An entry, its members in the order in which they are written.

    Attributes:
        lines: its points in line protocol.
        queue: where the record was consumed from.
        received_at: epoch seconds.
        body: of the message; of an array message, the record alone.
        place: of the record in its array message.
        timestamp: of its message, epoch seconds.
        headers: of its message, with their types.
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
    """Publish points to the queue where they wait.

    Args:
        indices: of the record that each point was made of, in the batch, ascending.
        lines: the points in line protocol, as many.

    Raises:
        SinkUnavailable: the queue takes no more, or the broker is away.
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
    """The records behind the entries that failed, each as it came: their dead letters
    are those of the queue that they were consumed from."""
    body = failing.body.strip()
    try:
        members = array_members(body) if body.startswith(b"[") else [body]
        return [_original(_decode(member)) for member in members] or [failing]
    except (ValueError, msgspec.MsgspecError):  # nothing of ours
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
    """Write points that have waited; what the store refuses is dead."""
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
