"""Real workers archive what is published to ``archive``, all of it and once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.flows.archive.objects import ObjectStore, open_store
from meshtasks.flows.excerpts import archive_messages, excerpt
from tests.support.amqp import queue_depth
from tests.support.analytics import ids_in
from tests.support.archive import (
    NOON,
    ROOT,
    bucket_environment,
    directory_environment,
    lines_in,
    message,
)
from tests.support.command import variables
from tests.support.swift import Swift
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUES = ("archive.events", "archive.metrics")


@pytest.fixture
def impatient_config(tmp_path: Path) -> Path:
    """The configuration, but archive batches wait for 0.2 s, not for 30."""
    directory = tmp_path / "config"
    shutil.copytree(ROOT / "config", directory)
    queues = directory / "queues.yaml"
    text = queues.read_text()
    assert "30_000" in text
    queues.write_text(text.replace("30_000", "200"))
    return directory


@pytest.fixture
def environment(mesh_url: str, impatient_config: Path, tmp_path: Path) -> Environment:
    """A mesh with its topology, whose archive is a directory."""
    return directory_environment(
        tmp_path, broker_url=mesh_url, config_dir=impatient_config
    )


@pytest.fixture
def store(environment: Environment) -> Iterator[ObjectStore]:
    """The archive's directory."""
    with closing(open_store(environment)) as it:
        yield it


def event(number: int) -> Outgoing:
    """Plain JSON from anybody."""
    return Outgoing(
        "archive", "garden.gate", b'{"n":%d}' % number, message_id=new_message_id()
    )


def readings(*numbers: int) -> Outgoing:
    """What a handler publishes of some readings."""
    excerpts = []
    for number in numbers:
        key = "sensors.temperature.cellar"
        reading = message(
            b'{"n":%d}' % number, key, exchange="sensors", name=f"s{number}"
        )
        excerpts.append(excerpt(reading, [NOON], [None]))
    (message_of_all,) = archive_messages(excerpts, "sensors.temperature")
    return Outgoing(*message_of_all)


def publish(environment: Environment, messages: list[Outgoing]) -> None:
    """Publish, confirmed."""
    with closing(Publisher(environment.amqp_url)) as publisher:
        publisher.publish(messages)


def archived(store: ObjectStore) -> Counter[int]:
    """How often each number stands in the archive."""
    return Counter(line["record"]["n"] for line in lines_in(store))


def has(store: ObjectStore, count: int) -> bool:
    """Whether so many different numbers have been archived."""
    return len(archived(store)) >= count


def test_workers_killed_again_and_again_archive_every_record_once(
    environment: Environment, store: ObjectStore, tmp_path: Path
) -> None:
    publish(environment, [event(number) for number in range(400)])
    publish(
        environment,
        [readings(*range(n, n + 100)) for n in range(10_000, 12_000, 100)],
    )
    for seen in (1, 1_000):
        with running(Worker(tmp_path, variables(environment), *QUEUES)) as worker:
            wait_until(partial(has, store, seen), 60, f"{seen} records")
            worker.kill()
    with running(Worker(tmp_path, variables(environment), *QUEUES)) as worker:
        wait_until(partial(has, store, 2_400), 60, "every record")
        worker.stop()

    assert archived(store) == Counter([*range(400), *range(10_000, 12_000)])
    # and the analytics dataset has the same
    assert ids_in(store) == Counter(line["id"] for line in lines_in(store))


def test_an_outage_of_the_bucket_delays_records_and_loses_none(
    environment: Environment, new_swift: Swift, tmp_path: Path
) -> None:
    in_bucket = bucket_environment(
        new_swift.target,
        tmp_path,
        broker_url=environment.broker_url,
        config_dir=environment.config_dir,
    )
    worker = Worker(tmp_path, variables(in_bucket), *QUEUES)
    with closing(open_store(in_bucket)) as store, running(worker):
        publish(in_bucket, [event(number) for number in range(100)])
        wait_until(partial(has, store, 100), 30, "records before")

        new_swift.kill()
        publish(in_bucket, [event(number) for number in range(100, 200)])
        wait_until(lambda: "sink objects is open" in worker.log(), 30, "the outage")
        publish(in_bucket, [event(number) for number in range(200, 300)])

        new_swift.start()
        wait_until(partial(has, store, 300), 90, "records after")

        assert archived(store) == Counter(range(300))
        assert len(ids_in(store)) == 300
    url = environment.amqp_url
    assert queue_depth(url, "dead.letter.queue") == 0
