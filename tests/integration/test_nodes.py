"""Several URLs: whichever node answers is taken, whoever connects."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery

from meshtasks.amqp import connecting
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.management import activity
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError, PublishUnconfirmed, Transient
from meshtasks.worker.broker import new_app
from tests.support.amqp import queue_depth
from tests.support.proxy import Proxy

QUEUE = "sensors.temperature"
READING = Outgoing("sensors", "sensors.temperature.attic", b"21.5")


@pytest.fixture(autouse=True)
def _nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_failed_at", {})


@pytest.fixture
def away(mesh_url: str) -> str:
    """URL of a node that is not there."""
    return _elsewhere(mesh_url, loopback.free_port())


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A node that takes connections and says nothing."""
    with socket.create_server((loopback.HOST, 0)) as listener:
        yield listener


def _elsewhere(url: str, port: int) -> str:
    head, _, tail = url.rpartition(":")
    return f"{head}:{port}/{tail.partition('/')[2]}"


def test_a_node_that_is_away_is_passed_over(mesh_url: str, away: str) -> None:
    with connected(f"{away};{mesh_url}") as connection:
        assert f":{connection.port}/" in mesh_url


def test_all_that_do_not_answer_are_named(away: str) -> None:
    other = _elsewhere(away, loopback.free_port())
    with pytest.raises(Transient) as unreachable, connected(f"{away};{other}"):
        pass
    for url in (away, other):
        assert url.rpartition("@")[2].partition("/")[0] in str(unreachable.value)


def test_a_node_that_does_not_answer_is_passed_over_and_then_asked_last(
    mesh_url: str, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SECONDS", 0.5)
    frozen = _elsewhere(mesh_url, silent.getsockname()[1])
    for _ in range(2):
        with connected(f"{frozen};{mesh_url}") as connection:
            assert f":{connection.port}/" in mesh_url
    silent.settimeout(0.0)
    silent.accept()[0].close()
    with pytest.raises(BlockingIOError):
        silent.accept()  # it was asked once


def test_a_name_of_several_addresses_is_as_many_nodes(
    rabbitmq: RabbitMQ, mesh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SECONDS", 0.5)
    look_up = socket.getaddrinfo

    def addresses(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "brokers.test":
            return look_up(host, port, *args, **kwargs)
        found = (
            look_up(each, port, *args, **kwargs) for each in ("127.0.0.2", "127.0.0.1")
        )
        return [entry for entries in found for entry in entries]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with (
        socket.create_server(("127.0.0.2", rabbitmq.ports.amqp)),  # and says nothing
        connected(mesh_url.replace("127.0.0.1", "brokers.test")) as connection,
    ):
        assert connection.connected
        assert connection.hostname == "brokers.test"


def test_a_node_that_refuses_the_account_is_passed_over(mesh_url: str) -> None:
    refusing = mesh_url.replace("mesh-admin:", "nobody:")
    with connected(f"{refusing};{mesh_url}") as connection:
        assert connection.userid == "mesh-admin"
    with (
        pytest.raises(ConfigError, match="refuses the user 'nobody'"),
        connected(refusing),
    ):
        pass


def test_a_publisher_goes_on_at_another_node(mesh_url: str, proxy: Proxy) -> None:
    with closing(Publisher(f"{proxy.url(mesh_url)};{mesh_url}")) as publisher:
        publisher.publish([READING])
        proxy.close_door()
        publisher.publish([READING])
    assert queue_depth(mesh_url, QUEUE) == 2


def test_a_node_that_confirms_nothing_is_left_for_another(
    mesh_url: str, proxy: Proxy
) -> None:
    urls = f"{proxy.url(mesh_url)};{mesh_url}"
    with closing(Publisher(urls, confirm_timeout_seconds=0.5)) as publisher:
        publisher.publish([READING])
        proxy.freeze()
        with pytest.raises(PublishUnconfirmed):
            publisher.publish([READING])
        publisher.publish([READING])


def test_celery_connects_to_whichever_answers(mesh_url: str, away: str) -> None:
    def answers(app: Celery) -> bool:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0)
            copy = connection.clone()
            copy.connect()
            copy.release()
            return bool(connection.connected)

    with new_app("test", f"{away};{mesh_url}", set_as_current=False) as app:
        assert answers(app)


def test_the_management_api_of_whichever_node_answers_is_asked(
    rabbitmq: RabbitMQ, mesh_url: str, away: str
) -> None:
    nobody = f"http://{loopback.HOST}:{loopback.free_port()}"
    found = activity(f"{away};{mesh_url}", f"{nobody};{rabbitmq.management_url}")
    assert QUEUE in found
    with pytest.raises(Transient, match=nobody):
        activity(mesh_url, nobody)
