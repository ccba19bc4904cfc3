"""A running worker to which the broker refuses something goes on with the rest, and has
everything again once the broker accepts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtasks.demo.rabbitmq import RabbitMQ
from tests.acceptance.test_worker_control import (
    MOTION,
    NOTIFICATIONS,
    close_connections,
    scripted_worker,
    wait_for_effects,
)
from tests.support.amqp import open_channel, publish_raw
from tests.support.topologies import shipped_topology
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

USER, PASSWORD = "restricted", "secret"
ALL = {"configure": ".*", "write": ".*", "read": ".*"}


@pytest.fixture
def allow(rabbitmq: RabbitMQ, vhost: str) -> Callable[..., None]:
    """Sets the rights of the worker's account."""
    user = f"{USER}-{vhost}"
    rabbitmq.api("PUT", f"/users/{user}", {"password": PASSWORD, "tags": ""})

    def set_rights(**rights: str) -> None:
        rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", {**ALL, **rights})

    set_rights()
    return set_rights


@pytest.fixture
def worker(
    new_mesh_env: dict[str, str],
    allow: Callable[..., None],
    rabbitmq: RabbitMQ,
    vhost: str,
    tmp_path: Path,
) -> Iterator[Worker]:
    """A worker of two queues, and its account."""
    del allow  # has made the account
    host = f"127.0.0.1:{rabbitmq.ports.amqp}"
    url = f"amqp://{USER}-{vhost}:{PASSWORD}@{host}/{vhost}"
    env = {**new_mesh_env, "MESH_BROKER_URL": url}
    with running(scripted_worker(env, tmp_path, MOTION, NOTIFICATIONS)) as worker:
        yield worker
        assert worker.process.running


@pytest.fixture
def send(amqp_url: str) -> Callable[..., None]:
    """Publishes a message on an exchange, as a device or a service does."""

    def publish(exchange: str, name: str) -> None:
        key = f"{exchange}.motion.hall"
        publish_raw(amqp_url, exchange, key, b'{"id": "%s"}' % name.encode())

    return publish


@pytest.fixture
def restrict(
    allow: Callable[..., None], rabbitmq: RabbitMQ, vhost: str
) -> Callable[..., None]:
    """Sets the rights of the worker's account, and has it connect again with them."""

    def restrict_to(**rights: str) -> None:
        allow(**rights)
        close_connections(rabbitmq, vhost)

    return restrict_to


def said(worker: Worker, text: str) -> None:
    wait_until(lambda: text in worker.log(), 60, text)


def test_a_queue_that_it_may_not_read_any_more_is_consumed_when_it_may(
    worker: Worker,
    allow: Callable[..., None],
    restrict: Callable[..., None],
    send: Callable[..., None],
    new_mesh_env: dict[str, str],
) -> None:
    restrict(read=r"^(?!sensors\.motion)")
    said(worker, "Cannot consume: ")
    send("sensors", "refused")
    send("alerts", "other")
    wait_for_effects(new_mesh_env, "other")

    allow()

    wait_for_effects(new_mesh_env, "other", "refused")
    assert worker.log().count("Cannot consume: ") == 1


def test_a_worker_that_may_not_send_events_consumes_without(
    worker: Worker,
    allow: Callable[..., None],
    restrict: Callable[..., None],
    send: Callable[..., None],
    new_mesh_env: dict[str, str],
) -> None:
    restrict(write=r"^(?!celeryev)")
    said(worker, "Cannot send events for monitors")
    for number in range(3):
        send("sensors", str(number))
    wait_for_effects(new_mesh_env, "0", "1", "2")

    allow()

    said(worker, "accepts events for monitors again")
    assert worker.log().count("Cannot send events") == 1


def test_what_it_needs_altogether_is_asked_for_until_it_is_given(
    worker: Worker,
    allow: Callable[..., None],
    restrict: Callable[..., None],
    send: Callable[..., None],
    new_mesh_env: dict[str, str],
) -> None:
    restrict(read="^$")
    said(worker, "the broker refuses what a worker needs")
    send("sensors", "refused")

    allow()

    wait_for_effects(new_mesh_env, "refused")


@pytest.mark.parametrize("other", [{"durable": True}, {"exclusive": True}], ids=str)
def test_a_queue_that_somebody_deleted_and_declared_anew_is_bound_and_consumed(
    worker: Worker,
    send: Callable[..., None],
    amqp_url: str,
    new_mesh_env: dict[str, str],
    other: dict[str, Any],
) -> None:
    with open_channel(amqp_url) as channel:
        channel.queue_delete(MOTION)
        channel.queue_declare(MOTION, auto_delete=False, **other)
        said(worker, f"queue {MOTION}: ")
        send("alerts", "meanwhile")
        wait_for_effects(new_mesh_env, "meanwhile")
        channel.queue_delete(MOTION)

    said(worker, "accepts the topology again")
    send("sensors", "afterwards")
    wait_for_effects(new_mesh_env, "meanwhile", "afterwards")


def test_a_queue_that_was_declared_anew_as_it_was_is_bound_and_consumed(
    worker: Worker,
    send: Callable[..., None],
    amqp_url: str,
    new_mesh_env: dict[str, str],
) -> None:
    with open_channel(amqp_url) as channel:
        arguments = shipped_arguments(MOTION)
        channel.queue_delete(MOTION)
        channel.queue_declare(
            MOTION, durable=True, auto_delete=False, arguments=arguments
        )

    publish_raw(amqp_url, "", MOTION, b'{"id": "straight"}')
    wait_for_effects(new_mesh_env, "straight")
    send("sensors", "by its binding")
    wait_for_effects(new_mesh_env, "straight", "by its binding")


def shipped_arguments(name: str) -> dict[str, Any]:
    queues = shipped_topology().all_queues
    return next(queue.arguments for queue in queues if queue.name == name)
