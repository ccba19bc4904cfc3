"""One queue's channel on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from kombu import Connection

from meshtasks.amqp.queues import BatchLimits, QueueSettings, RetryPolicy
from meshtasks.flows.contract import Handler
from meshtasks.worker.batching import Buffer
from meshtasks.worker.celery_internals import BurstReader
from meshtasks.worker.queue_consumer import QueueConsumer
from meshtasks.worker.resolution import OutcomeResolver
from tests.support.amqp import open_channel, publish_raw

QUEUE = "sensors.motion"


@pytest.fixture
def connection(mesh_url: str) -> Iterator[Connection]:
    with Connection(mesh_url) as connection:
        yield connection


@pytest.fixture
def consumer() -> QueueConsumer:
    return QueueConsumer(
        Handler(QUEUE, lambda _batch, _sinks: [], object, (), False),
        QueueSettings(),
        OutcomeResolver(QUEUE, RetryPolicy(), (1,), "worker@host"),
        10,
        on_full=lambda _consumer, _deliveries: None,
        on_open=lambda _consumer, _buffer: None,
        on_dead=lambda _consumer, _adapted: None,
    )


def test_a_channel_that_the_broker_closed_is_reported(
    connection: Connection, consumer: QueueConsumer, mesh_url: str
) -> None:
    lost: list[str] = []
    consumer.open(connection, lambda _consumer, reason: lost.append(reason))
    with open_channel(mesh_url) as channel:
        channel.queue_delete(QUEUE)

    with pytest.raises(amqp.NotFound):
        consumer.waiting_in_queue()

    assert lost == [f"the broker closed the channel of {QUEUE}"]


def test_a_consumer_that_the_broker_cancelled_is_reported(
    connection: Connection, consumer: QueueConsumer, mesh_url: str
) -> None:
    lost: list[str] = []
    consumer.open(connection, lambda _consumer, reason: lost.append(reason))
    consumer.consume()
    with open_channel(mesh_url) as channel:
        channel.queue_delete(QUEUE)

    while not lost:
        connection.drain_events(timeout=300)

    assert lost == [f"the broker cancelled the consumer of {QUEUE}"]


def test_a_queue_that_tries_a_sink_gets_no_more_than_it_needs(
    connection: Connection, consumer: QueueConsumer, mesh_url: str
) -> None:
    publish_raw(mesh_url, "", QUEUE, *[b"{}"] * 10)
    consumer.open(connection, lambda _consumer, _reason: None)
    consumer.consume(at_most=2)
    assert consumer.is_trying
    while consumer.received < 2:
        connection.drain_events(timeout=300)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)

    consumer.consume()

    assert not consumer.is_trying
    while consumer.received < 10:
        connection.drain_events(timeout=300)


def test_as_many_messages_are_asked_for_as_their_size_allows(
    connection: Connection, mesh_url: str
) -> None:
    opened: list[Buffer] = []
    consumer = QueueConsumer(
        Handler(QUEUE, lambda _batch, _sinks: [], object, (), False),
        QueueSettings(batch=BatchLimits(bytes=10_000)),
        OutcomeResolver(QUEUE, RetryPolicy(), (1,), "worker@host"),
        8_000,
        on_full=lambda _consumer, _deliveries: None,
        on_open=lambda _consumer, buffer: opened.append(buffer),
        on_dead=lambda _consumer, _adapted: None,
    )
    publish_raw(mesh_url, "", QUEUE, *[b" " * 4_000] * 100)
    consumer.open(connection, lambda _consumer, _reason: None)
    consumer.consume()
    while not opened:
        connection.drain_events(timeout=300)

    assert consumer.is_new
    consumer.note_size(opened[0])
    assert consumer.is_unfit
    consumer.consume()

    consumer.cancel()  # what was on its way has come
    assert consumer.received < 100
    assert consumer.waiting_in_queue() + consumer.received == 100


def test_a_channel_that_the_broker_closes_by_itself_ends_nothing_else(
    connection: Connection, consumer: QueueConsumer
) -> None:
    lost: list[str] = []
    errors: list[amqp.ChannelError] = []
    consumer.open(connection, lambda _consumer, reason: lost.append(reason))
    consumer.consume()
    loop: Any = SimpleNamespace(replace_reader=lambda *_: None, soon=lambda *_: None)
    reader = BurstReader(connection.connection, loop, errors.append)

    consumer.acknowledge([1])  # nothing was delivered

    while not errors:
        reader.read()
    assert lost == [f"the broker closed the channel of {QUEUE}"]
    assert isinstance(errors[0], amqp.PreconditionFailed)
