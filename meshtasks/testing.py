"""For tests of flows: messages, sinks in memory, and the contract of every handler.

Needs pytest. A test class that derives from :class:`HandlerContract` tests a handler.
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

#: When messages of tests are received: 2026-11-23T13:20:00Z.
NOW = 1_795_440_000.0

_numbers = itertools.count(1)


def message(queue: str, routing_key: str, content: Any, **changes: Any) -> Envelope:
    """A message in a queue, received :data:`NOW`.

    Args:
        queue: its name; the first word is the exchange.
        content: the body, or what is made JSON.
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
    """Decode messages as the worker does, and give the good records to the handler.

    Returns:
        One outcome for each record, in order; one for a body that has none.
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
        dead = {member.place: member.dead for member in decoded.bad}
        whole = envelope
        if decoded.several is not None:
            whole = replace(envelope, body=decoded.several.array)
        count = len(decoded.records) + len(decoded.bad)
        outcomes.extend(dead.get(index) for index in range(count))
        batch.records.extend(decoded.records)
        batch.envelopes.extend([whole] * len(decoded.records))
        batch.indexes.extend(decoded.places)
    decided = iter(handler(batch, sinks) if batch.records else [])
    return [next(decided) if known is None else known for known in outcomes]


class MemoryTimeSeries(TimeSeries):
    """A time-series store in memory.

    Attributes:
        lines: the points that it has.
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
        """It is there."""


class MemoryPublisher(Publisher):
    """A broker in memory.

    Attributes:
        messages: what was published, in order.
    """

    def __init__(self) -> None:
        super().__init__("amqp://memory")
        self.messages: list[Outgoing] = []

    @override
    def publish(self, messages: Sequence[Outgoing]) -> None:
        self.messages.extend(messages)


class HandlerContract:
    """What every handler owes the worker.

    Attributes:
        handler: the one that is tested.
        routing_key: of its messages.
        good: records that it takes.
        bad: records that it finds dead.
    """

    handler: ClassVar[Handler]
    routing_key: ClassVar[str]
    good: ClassVar[Sequence[Any]]
    bad: ClassVar[Sequence[Any]]

    @pytest.fixture
    def sinks(self, tmp_path: Path) -> Iterator[Sinks]:
        """Sinks of a mesh with the shipped configuration: time-series store and broker
        in memory, the archive and all state in a directory. Override it to open
        others."""
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
        """What the handler has done so far, so that the same done twice is seen once.
        Override it for sinks of your own."""
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
        """Every record, in a message of its own."""
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
        """The messages whose body is a record, and this record."""
        decoder = Decoder(self.handler)
        for envelope in self._batch():
            with suppress(InvalidMessage):
                yield envelope, decoder.decode(envelope.body).records
