"""Watching a mesh: everything is seen, nothing is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.amqp import headers
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.observation.collect import Collector, QueueState, Snapshot
from meshtasks.observation.seen import Seen
from tests.support.amqp import drain, publish_raw
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

QUEUE = "sensors.temperature"
KEY = "sensors.temperature.attic"
ALERT = b'{"title": "t", "message": "m", "severity": "info", "source": "test"}'


def settings(url: str, directory: Path) -> Settings:
    environment = Environment(
        _env_file=None,
        broker_url=SecretStr(url),
        config_dir=Path(__file__).parents[2] / "config",
        archive_url=f"file://{directory}",
    )
    return Settings(environment)


@pytest.fixture
def collector(new_mesh_url: str, rabbitmq: RabbitMQ, tmp_path: Path) -> Collector:
    management_url = rabbitmq.management_url
    return Collector(settings(new_mesh_url, tmp_path), management_url=management_url)


def queue(snapshot: Snapshot, name: str) -> QueueState:
    return next(each for each in snapshot.queues if each.name == name)


def wait_for(
    collector: Collector, seen: Callable[[Seen], bool], what: str = "it to be seen"
) -> Seen:
    wait_until(lambda: seen(collector.seen()), 20.0, what)
    return collector.seen()


def die(url: str, *bodies: bytes) -> None:
    """Publish dead letters as a worker does."""
    reasons = {
        headers.REASON: "no sense",
        headers.ERROR_TYPE: "SchemaMismatch",
        headers.ROUTING_KEY: KEY,
        headers.QUEUE: QUEUE,
    }
    publish_raw(url, "dead.letter", "#", *bodies, headers=reasons)


def test_depths_are_of_this_moment(collector: Collector, new_mesh_url: str) -> None:
    with collector:
        assert queue(collector.snapshot(), QUEUE).ready == 0
        publish_raw(new_mesh_url, "sensors", KEY, b"1", b"2", b"3")

        assert queue(collector.snapshot(), QUEUE).ready == 3
        assert collector.snapshot().faults == ()


def test_rates_come_from_the_management_api(
    collector: Collector, new_mesh_url: str
) -> None:
    def came_in() -> bool:
        publish_raw(new_mesh_url, "sensors", KEY, b"1")
        return bool(queue(collector.snapshot(), QUEUE).in_per_second)

    with collector:
        wait_until(came_in, 30.0, "a rate")


def test_without_the_management_api_depths_are_still_there(
    new_mesh_url: str, tmp_path: Path
) -> None:
    nobody = "http://127.0.0.1:1"
    with Collector(
        settings(new_mesh_url, tmp_path), management_url=nobody
    ) as collector:
        snapshot = collector.snapshot()

    assert queue(snapshot, QUEUE) == QueueState(QUEUE, 0, 0)
    assert "rabbitmq_management" in snapshot.faults[0]


def test_queues_that_are_not_there_are_left_out(
    amqp_url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    url = rabbitmq.management_url
    with Collector(settings(amqp_url, tmp_path), management_url=url) as collector:
        assert collector.snapshot().queues == ()


def test_a_store_that_does_not_answer_is_a_fault_and_hides_nothing_else(
    new_mesh_url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    def refused() -> int:
        raise ConnectionRefusedError

    url = rabbitmq.management_url
    with Collector(
        settings(new_mesh_url, tmp_path), management_url=url, points=refused
    ) as collector:
        snapshot = collector.snapshot()

    assert snapshot.points is None
    assert "time-series store" in snapshot.faults[0]
    assert queue(snapshot, QUEUE).ready == 0


def test_dead_letters_are_seen_and_left_as_they_are(
    collector: Collector, new_mesh_url: str
) -> None:
    with collector:
        assert collector.wait_watching(20.0)
        die(new_mesh_url, b"1", b"2")
        publish_raw(new_mesh_url, "sensors", "sensors.nonsense", b"3")
        seen = wait_for(collector, lambda seen: seen.dead_letters == 3)

    assert seen.dead_by_type == {"SchemaMismatch": 2, "Unroutable": 1}
    assert seen.dead_by_queue == {QUEUE: 2, "": 1}
    letters = drain(new_mesh_url, "dead.letter.queue")
    assert [letter.body for letter in letters] == [b"1", b"2", b"3"]
    assert not any(letter.redelivered for letter in letters)


def test_alerts_are_seen_and_left_as_they_are(
    collector: Collector, new_mesh_url: str
) -> None:
    with collector:
        assert collector.wait_watching(20.0)
        publish_raw(new_mesh_url, "alerts", "alerts.info.test", ALERT)
        wait_for(collector, lambda seen: seen.alerts == 1)

    assert [each.body for each in drain(new_mesh_url, "alerts.critical")] == [ALERT]


def test_retries_and_answers_of_models_are_seen(
    collector: Collector, new_mesh_url: str
) -> None:
    with collector:
        assert collector.wait_watching(20.0)
        publish_raw(new_mesh_url, "retry.600", QUEUE, b"1")
        publish_raw(new_mesh_url, "ai", "ai.result.m", b"{}", message_id="m/1/result")
        seen = wait_for(collector, lambda seen: bool(seen.retried and seen.answers))

    assert seen.retried == {QUEUE: 1}
    assert seen.answers == 1


def test_nothing_of_it_stays_on_the_broker(
    collector: Collector, new_mesh_url: str, rabbitmq: RabbitMQ, vhost: str
) -> None:
    def own() -> set[str]:
        names = {each["name"] for each in rabbitmq.api("GET", f"/queues/{vhost}")}
        return {name for name in names if name.startswith("amq.gen")}

    with collector:
        assert collector.wait_watching(20.0)
        wait_until(own, 20.0, "queues of its own")

    wait_until(lambda: not own(), 20.0, "them to go")


def test_watching_goes_on_after_the_connection_was_lost(
    new_mesh_url: str, rabbitmq: RabbitMQ, proxy: Proxy, tmp_path: Path
) -> None:
    through_proxy = settings(proxy.url(new_mesh_url), tmp_path)
    url = rabbitmq.management_url
    with Collector(through_proxy, management_url=url) as collector:
        assert collector.wait_watching(20.0)
        assert not collector.snapshot().faults
        proxy.cut()
        wait_for(collector, lambda seen: seen.interruptions == 1)
        assert collector.wait_watching(20.0)
        die(new_mesh_url, b"1")
        wait_for(collector, lambda seen: seen.dead_letters == 1)

        wait_until(lambda: not collector.snapshot().faults, 20.0, "a new connection")
        assert queue(collector.snapshot(), "dead.letter.queue").ready == 1
