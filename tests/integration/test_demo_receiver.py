"""What stands in for n8n and the phone, as the mesh's own sinks call it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from meshtasks.demo import loopback
from meshtasks.demo.receiver import Receiver
from meshtasks.flows.alerts.notifier import Notifier
from meshtasks.flows.alerts.rendering import Notification


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    server.start()
    yield server
    server.stop()


def notification(title: str, tag: str) -> Notification:
    return Notification(
        title=title,
        body="It is hot.",
        priority=5,
        tags=("fire",),
        tag=tag,
        severity="critical",
        resolved=False,
    )


def call(receiver: Receiver, name: str, *records: str) -> None:
    body = json.dumps([{"id": record, "record": {}} for record in records]).encode()
    loopback.request("POST", receiver.port, f"/webhook/{name}", body=body)


def page_of(receiver: Receiver) -> str:
    return loopback.request("GET", receiver.port, "/").decode()


def test_records_are_counted_by_webhook_and_once(receiver: Receiver) -> None:
    call(receiver, "motion", "a", "b")
    call(receiver, "motion", "b", "c")
    call(receiver, "doors", "a")

    received = receiver.received()

    assert received.records == {"motion": 3, "doors": 1}
    assert received.repeated == 1
    assert "3 to motion, 1 to doors" in page_of(receiver)


def test_a_notification_replaces_the_earlier_one_on_its_page(
    receiver: Receiver,
) -> None:
    notifier = Notifier({"phone": SecretStr(receiver.phone_url)})

    notifier.send("phone", notification("attic is <hot>", "mesh-1"))
    notifier.send("phone", notification("attic is hotter", "mesh-1"))

    assert receiver.received().notifications == 2
    assert "attic is hotter" in page_of(receiver)
    assert "attic is &lt;hot" not in page_of(receiver)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/webhook/motion", b"no JSON", 400),
        ("POST", "/webhook/motion", b"[1]", 400),
        ("POST", "/", b"[]", 400),
        ("GET", "/elsewhere", None, 404),
    ],
)
def test_what_it_does_not_understand_is_refused(
    receiver: Receiver, method: str, path: str, body: bytes | None, status: int
) -> None:
    with pytest.raises(loopback.HTTPFailed, match=str(status)):
        loopback.request(method, receiver.port, path, body=body)

    assert not receiver.received().records
