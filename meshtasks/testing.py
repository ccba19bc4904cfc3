"""Helpers for tests of flows: messages, sinks in memory, contract tests of handlers.

Needs pytest. To test a handler, derive a test class from :class:`HandlerContract`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace
from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES, Sinks
from meshtasks.flows.timeseries import TimeSeries
from meshtasks.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.records.envelope import Envelope
from meshtasks.worker.decode import Decoder

#: Time at which test messages are received, in epoch seconds: 2026-11-23T13:20:00Z.
NOW = 1_795_440_000.0

_numbers = itertools.count(1)


def message(queue: str, routing_key: str, content: Any, **changes: Any) -> Envelope:
    """A message in a queue, received at :data:`NOW`.

    Args:
        queue: name of the queue; its first word is the exchange.
        content: the body as bytes, or a value to encode as JSON.
        changes: other fields of the envelope.
    """
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    fields: dict[str, Any] = {
        "body": body,
        "exchange": queue.partition(".")[0],
        "routing_key": routing_key,
        "queue": queue,
        "message_id": f"m{next(_numbers)}",
        "timestamp": None,
        "received_at": NOW,
        "headers": {},
    }
    return Envelope(**fields | changes)


def handle(handler: Handler, sinks: Sinks, *messages: Envelope) -> list[Outcome]:
    """Decode messages as the worker does, and pass the valid records to the handler.

    Returns:
        One outcome for each record, in order; one for a body that cannot be decoded.
    """
    decoder = Decoder(handler)
    batch: Batch[Any] = Batch(handler.queue, [], [], [])
    outcomes: list[Outcome | None] = []
    for envelope in messages:
        try:
            decoded = decoder.decode(envelope.body)
        except InvalidMessage as error:
            outcomes.append(outcome_of(error))
            continue
        dead = {member.record_index: member.dead for member in decoded.bad}
        whole = envelope
        if decoded.several is not None:
            whole = replace(envelope, body=decoded.several.array)
        count = len(decoded.records) + len(decoded.bad)
        outcomes.extend(dead.get(index) for index in range(count))
        batch.records.extend(decoded.records)
        batch.envelopes.extend([whole] * len(decoded.records))
        batch.indexes.extend(decoded.indexes)
    decided = iter(handler(batch, sinks) if batch.records else [])
    return [next(decided) if known is None else known for known in outcomes]


class MemoryTimeSeries(TimeSeries):
    """A time-series store in memory.

    Attributes:
        lines: the points written, in line protocol.
    """

    def __init__(self) -> None:
        super().__init__("http://memory", "", "", "")
        self.lines: set[str] = set()

    @override
    def write(self, lines: Sequence[str], *, in_haste: bool = False) -> dict[int, str]:
        self.lines.update(lines)
        return {}

    @override
    def probe(self) -> None:
        """Do nothing: it is always available."""


class MemoryPublisher(Publisher):
    """A broker in memory.

    Attributes:
        messages: published messages, in order.
    """

    def __init__(self) -> None:
        super().__init__("amqp://memory")
        self.messages: list[Outgoing] = []

    @override
    def publish(self, messages: Sequence[Outgoing]) -> None:
        self.messages.extend(messages)


class HandlerContract:
    """Tests of what the worker requires of every handler.

    Attributes:
        handler: the handler to test.
        routing_key: routing key of its messages.
        good: records that it accepts.
        bad: records for which it returns ``Dead``.
    """

    handler: ClassVar[Handler]
    routing_key: ClassVar[str]
    good: ClassVar[Sequence[Any]]
    bad: ClassVar[Sequence[Any]]

    @pytest.fixture
    def sinks(self, tmp_path: Path) -> Iterator[Sinks]:
        """Sinks of a mesh with the shipped configuration.

        The time-series store and the broker are in memory; the archive and the state
        are in a temporary directory. Override this fixture to use other sinks.
        """
        env = Environment(
            _env_file=None,
            state_dir=tmp_path / "state",
            archive_url=f"file://{tmp_path / 'archive'}",
        )
        with closing(Sinks(Settings(env))) as sinks:
            sinks[TIMESERIES] = MemoryTimeSeries()
            sinks[PUBLISHER] = MemoryPublisher()
            yield sinks

    def effects(self, sinks: Sinks) -> Any:
        """The effects of the handler so far, as a value that a rerun must not change.

        Override this method for sinks of your own.
        """
        store, publisher = sinks[TIMESERIES], sinks[PUBLISHER]
        assert isinstance(store, MemoryTimeSeries)
        assert isinstance(publisher, MemoryPublisher)
        published = {
            (each.exchange, each.routing_key, each.message_id or each.body)
            for each in publisher.messages
        }
        return set(store.lines), published

    def _message(self, content: Any, name: str) -> Envelope:
        queue = self.handler.queue
        return message(queue, self.routing_key, content, message_id=name)

    def _batch(self) -> list[Envelope]:
        """A message for each record."""
        records = (*self.good, *self.bad)
        return [self._message(record, f"m{n}") for n, record in enumerate(records)]

    def test_good_records_are_done_and_have_an_effect(self, sinks: Sinks) -> None:
        before = self.effects(sinks)

        outcomes = handle(self.handler, sinks, *self._batch()[: len(self.good)])

        assert outcomes == [DONE] * len(self.good)
        assert self.effects(sinks) != before

    def test_bad_records_are_dead_and_their_neighbours_done(self, sinks: Sinks) -> None:
        array = self._message([*self.bad, *self.good], "array")
        torn = self._message(b'{"torn": ', "torn")

        outcomes = handle(self.handler, sinks, torn, array)

        dead, done = outcomes[: len(self.bad) + 1], outcomes[len(self.bad) + 1 :]
        assert all(isinstance(each, Dead) and each.reason for each in dead), dead
        assert done == [DONE] * len(self.good)

    def test_every_record_has_one_outcome(self, sinks: Sinks) -> None:
        batch: Batch[Any] = Batch(self.handler.queue, [], [], [])
        for envelope, records in self._decoded():
            batch.records.extend(records)
            batch.envelopes.extend([envelope] * len(records))
            batch.indexes.extend([None] * len(records))

        assert len(self.handler(batch, sinks)) == len(batch.records)

    def test_a_second_run_changes_nothing(self, sinks: Sinks) -> None:
        first = handle(self.handler, sinks, *self._batch())
        effects = self.effects(sinks)

        second = handle(self.handler, sinks, *self._batch())

        assert second == first
        assert self.effects(sinks) == effects

    def test_what_is_dead_beforehand_is_dead_when_handled(self, sinks: Sinks) -> None:
        for envelope, records in self._decoded():
            dead = self.handler.validate(records, [envelope], sinks.settings)

            outcomes = handle(self.handler, sinks, envelope)

            assert [isinstance(outcome, Dead) for outcome in outcomes] == [0 in dead]

    def _decoded(self) -> Iterator[tuple[Envelope, list[Any]]]:
        """The messages that can be decoded, each with its record."""
        decoder = Decoder(self.handler)
        for envelope in self._batch():
            with suppress(InvalidMessage):
                yield envelope, decoder.decode(envelope.body).records
