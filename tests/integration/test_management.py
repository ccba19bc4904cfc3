"""Who gets the broker's password: RabbitMQ's management pages, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from meshtasks.amqp import management
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError, Transient
from tests.support.httpserver import Handler, HTTPServer
from tests.support.receiver import Answer, Receiver

BROKER = "amqp://mesh:secret@127.0.0.1/mesh"


class _Stranger(Handler):
    """Sends whoever asks for /moved elsewhere, and asks all others for an account."""

    def do_GET(self) -> None:  # noqa: N802 - http.server looks it up
        self.owner.accounts.append(self.headers.get("Authorization"))
        if self.path.startswith("/moved"):
            self.answer(302, b"", {"Location": f"{self.owner.url}/elsewhere"})
        else:
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="Printer"'})


class Stranger(HTTPServer):
    """A server that is no RabbitMQ; ``accounts`` are what it was given."""

    def __init__(self) -> None:
        super().__init__(_Stranger)
        self.accounts: list[str | None] = []


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger() as server:
        yield server


def test_a_server_that_is_not_rabbitmq_gets_no_password(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_default_url", lambda _: stranger.url)

    with pytest.raises(ConfigError, match="MESH_MANAGEMENT_URL"):
        management.read(BROKER)

    assert stranger.accounts == [None]


def test_a_redirect_takes_no_password_along(stranger: Stranger) -> None:
    with pytest.raises(ConfigError, match="302"):
        management.read(BROKER, f"{stranger.url}/moved")

    assert len(stranger.accounts) == 1


def test_nothing_is_guessed_beside_a_broker_on_a_port_of_its_own(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_default_url", lambda _: stranger.url)

    with pytest.raises(ConfigError, match="MESH_MANAGEMENT_URL"):
        management.read("amqp://mesh:secret@127.0.0.1:5673/mesh")

    assert stranger.accounts == []


def test_what_does_not_speak_http_is_a_fault_of_the_address(
    rabbitmq: RabbitMQ,
) -> None:
    port = urlsplit(rabbitmq.amqp_url()).port

    with pytest.raises(Transient, match="cannot be reached"):
        management.read(BROKER, f"http://127.0.0.1:{port}")


def test_rabbitmq_shows_itself_and_is_asked(
    rabbitmq: RabbitMQ, mesh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_default_url", lambda _: rabbitmq.management_url)
    port = urlsplit(mesh_url).port

    live = management.read(mesh_url.replace(f":{port}/", ":5672/"))

    assert live.queues


def test_a_list_that_rabbitmq_failed_to_make_is_asked_for_again(
    receiver: Receiver,
) -> None:
    receiver.script(Answer(500, b"{}"), *[Answer(200, b"[]")] * 3)

    live = management.read(BROKER, receiver.url)

    assert (live.exchanges, live.queues, live.bindings) == ([], [], [])


def test_a_server_that_always_fails_is_named_with_its_status(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_PAUSE_SECONDS", 0.0)
    receiver.script(*[Answer(500, b"{}")] * 9)

    with pytest.raises(ConfigError, match="status 500"):
        management.read(BROKER, receiver.url)
