"""A bucket as object store: what a bad network, wrong keys and servers do to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from meshtasks.config.environment import Environment
from meshtasks.demo import loopback
from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.archive import s3 as s3_store
from meshtasks.flows.archive.objects import ObjectStore, open_store
from tests.support.archive import bucket_environment, client
from tests.support.receiver import Answer, Receiver
from tests.support.s3 import S3Target
from tests.support.swift import Swift

NAME = "events/home/one"

OpenStore = Callable[..., ObjectStore]


@pytest.fixture
def environment(s3: S3Target, tmp_path: Path) -> Environment:
    """An empty bucket and the keys to it."""
    return bucket_environment(s3, tmp_path)


@pytest.fixture
def opened(environment: Environment) -> Iterator[OpenStore]:
    """Opens the bucket's store, with changes to its settings."""
    with ExitStack() as stores:

        def open_with(**changes: object) -> ObjectStore:
            changed = Environment(**environment.model_dump() | changes)
            store = open_store(changed)
            stores.callback(store.close)
            return store

        yield open_with


@pytest.fixture
def at_receiver(receiver: Receiver, tmp_path: Path) -> Iterator[ObjectStore]:
    """A store whose server answers as the test tells it."""
    store = open_store(
        Environment(
            archive_url="s3://archive",
            minio_endpoint=f"{loopback.HOST}:{receiver.port}",
            minio_access_key="mesh",
            minio_secret_key="secret",
        )
    )
    yield store
    store.close()


def test_an_object_carries_its_metadata_and_type(
    opened: OpenStore, environment: Environment, s3: S3Target
) -> None:
    metadata = {"count": "2", "first": "2026-11-23T12:00:00.000Z"}
    opened().put(f"{NAME}.jsonl.zst", b"zstd", metadata)

    bucket = environment.archive_url.removeprefix("s3://")
    found = client(s3).stat_object(bucket, f"{NAME}.jsonl.zst")

    assert found.content_type == "application/zstd"
    assert found.metadata is not None
    assert found.metadata["x-amz-meta-count"] == "2"
    assert found.metadata["x-amz-meta-first"] == "2026-11-23T12:00:00.000Z"


def test_an_object_too_large_for_one_request_is_sent_in_parts(
    opened: OpenStore,
) -> None:
    data = os.urandom(65 << 20)
    store = opened()

    store.put(NAME, data, {"count": "1"})

    assert store.get(NAME) == data


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"minio_secret_key": "a wrong one"}, "MESH_MINIO_SECRET_KEY"),
        ({"minio_access_key": "nobody:knows"}, "MESH_MINIO_ACCESS_KEY"),
        ({"archive_url": "s3://mistyped"}, "create the bucket, or correct"),
    ],
)
def test_a_wrong_setting_holds_the_queue_up_with_what_to_do(
    opened: OpenStore, wrong: dict[str, str], named: str
) -> None:
    store = opened(**wrong)

    for call in (
        lambda: store.put(NAME, b"1", {}),
        lambda: store.stat(NAME),
        lambda: store.get(NAME),
        lambda: list(store.list("")),
        store.probe,
    ):
        with pytest.raises(SinkUnavailable, match=named) as it:
            call()
        assert it.value.sink == "objects"
        assert "a wrong one" not in str(it.value)


def test_a_server_that_stops_is_an_outage_until_it_is_back(
    new_swift: Swift, tmp_path: Path
) -> None:
    environment = bucket_environment(new_swift.target, tmp_path)
    with closing(open_store(environment)) as store:
        store.put(NAME, b"before", {})

        new_swift.kill()
        with pytest.raises(SinkUnavailable, match="refused"):
            store.probe()
        with pytest.raises(SinkUnavailable, match="refused"):
            store.put(NAME, b"lost", {})

        new_swift.start()
        store.probe()
        assert store.get(NAME) == b"before"
        store.put(NAME, b"after", {})
        assert store.get(NAME) == b"after"


def test_a_connection_that_went_stale_is_replaced_unnoticed(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = Answer(200, b"", {"ETag": '"0"'})
    at_receiver.put(NAME, b"1", {})

    receiver.stop()
    receiver.start()

    at_receiver.put(NAME, b"2", {})
    assert receiver.requests[-1].body == b"2"


def test_an_overloaded_server_gets_the_time_of_its_header(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = _error(503, "SlowDown", {"Retry-After": "7"})

    with pytest.raises(SinkUnavailable, match="SlowDown") as it:
        at_receiver.put(NAME, b"1", {})

    assert it.value.retry_after_seconds == 7


@pytest.mark.parametrize(
    "answer",
    [
        Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}),
        Answer(200, b"\xff", {"Content-Type": "text/html"}),
        Answer(500, b"not the XML it claims", {"Content-Type": "application/xml"}),
        Answer(404, b"", {}),
    ],
)
def test_a_server_that_is_not_s3_is_named(
    at_receiver: ObjectStore, receiver: Receiver, answer: Answer
) -> None:
    receiver.always = answer
    with pytest.raises(SinkUnavailable, match="MESH_MINIO_ENDPOINT"):
        at_receiver.put(NAME, b"1", {})


def test_an_object_that_the_server_will_never_take_is_rejected(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = _error(400, "EntityTooLarge")

    with pytest.raises(SinkRejected, match="EntityTooLarge"):
        at_receiver.put(NAME, b"1", {})


def test_a_refusal_that_is_not_about_the_object_holds_the_queue_up(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = _error(400, "KMSNotConfigured")

    with pytest.raises(SinkUnavailable, match="KMSNotConfigured"):
        at_receiver.put(NAME, b"1", {})


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
    fields = {"Content-Type": "application/xml", **(headers or {})}
    return Answer(status, body, fields)


def test_no_other_right_is_needed_than_that_to_write(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    """Nobody asks for the bucket's region, which not every key may."""
    receiver.always = Answer(200, b"", {"ETag": '"0"'})
    at_receiver.put(NAME, b"1", {})
    assert [each.method for each in receiver.requests] == ["PUT"]


def test_for_a_key_that_may_not_delete_the_missing_right_is_named(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = _error(403, "AccessDenied")
    with pytest.raises(SinkUnavailable, match="s3:DeleteObject"):
        at_receiver.delete(NAME)
    with pytest.raises(SinkUnavailable, match="s3:PutObject"):
        at_receiver.put(NAME, b"1", {})


def test_for_another_region_the_setting_is_named(
    at_receiver: ObjectStore, receiver: Receiver
) -> None:
    receiver.always = _error(400, "AuthorizationHeaderMalformed")
    with pytest.raises(SinkUnavailable, match="MESH_MINIO_REGION"):
        at_receiver.put(NAME, b"1", {})


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://127.0.0.1:9000",
        "https://minio.lan",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "127.0.0.1:",
        "mini o:9000",
        "minio:9000/",
        "minio:9000/path",
        "user:secret@minio:9000",
    ],
)
def test_an_endpoint_is_host_and_port(endpoint: str, tmp_path: Path) -> None:
    environment = Environment(
        archive_url="s3://archive",
        minio_endpoint=endpoint,
        minio_access_key="mesh",
        minio_secret_key="hidden-8f3a",
    )
    with pytest.raises(ConfigError) as refused:
        open_store(environment)
    assert refused.value.key == "MESH_MINIO_ENDPOINT"


def test_an_outage_is_no_reason_to_turn_tls_off(tmp_path: Path) -> None:
    store = open_store(
        Environment(
            archive_url="s3://archive",
            minio_endpoint=f"{loopback.HOST}:{loopback.free_port()}",
            minio_access_key="mesh",
            minio_secret_key="hidden-8f3a",
            minio_secure=True,
        )
    )
    with closing(store), pytest.raises(SinkUnavailable, match="running") as it:
        store.probe()
    assert "MESH_MINIO_SECURE" not in str(it.value)


def test_a_server_that_hangs_is_asked_once(
    at_receiver: ObjectStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store._TIMEOUT, "_read", 0.2)  # noqa: SLF001 - nobody waits
    with closing(socket.create_server((loopback.HOST, 0))) as silent:
        store = open_store(
            Environment(
                archive_url="s3://archive",
                minio_endpoint=f"{loopback.HOST}:{silent.getsockname()[1]}",
                minio_access_key="mesh",
                minio_secret_key="hidden-8f3a",
            )
        )
        with closing(store), pytest.raises(SinkUnavailable, match="timed out"):
            store.put(NAME, b"1", {})
        silent.setblocking(False)
        asked = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
        assert asked == 1


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        pytest.param(507, "XMinioStorageFull", "Storage backend is full", id="MinIO"),
        pytest.param(403, "QuotaExceeded", "", id="Ceph"),
        pytest.param(
            403, "AccessDenied", "Forbidden: Bucket size quota is reached", id="Garage"
        ),
        pytest.param(500, "InternalError", "We encountered an error", id="SeaweedFS"),
    ],
)
def test_a_bucket_without_room_has_room_again_when_as_much_fits(
    at_receiver: ObjectStore,
    receiver: Receiver,
    status: int,
    code: str,
    message: str,
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    xml = {"Content-Type": "application/xml"}
    full = Answer(status, body.encode(), xml)
    stored = Answer(200, headers={"ETag": '"1"'})
    exists, deleted = Answer(200), Answer(204)
    receiver.script(full, exists, full, exists, stored, deleted, stored)

    def not_probed() -> str:
        with pytest.raises(SinkUnavailable) as caught:
            at_receiver.probe()
        return str(caught.value)

    with pytest.raises(SinkUnavailable, match=code):
        at_receiver.put(NAME, b"x" * 1000, {})
    assert (message or code) in not_probed()  # the bucket is there, but still full
    at_receiver.probe()
    at_receiver.put(NAME, b"x" * 1000, {})

    puts = [each for each in receiver.requests if each.method == "PUT"]
    tried = [each.path.removeprefix("/archive/") for each in puts]
    assert tried == [NAME, "room/probe", "room/probe", NAME]
    assert {int(each.headers["content-length"]) for each in puts} == {1000}
