"""What the other tests rely on the servers in tests/support for."""

from __future__ import annotations

import http.client
import io

import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from minio import Minio
from minio.error import S3Error

from tests.support.influx import InfluxTarget
from tests.support.receiver import Answer, Receiver
from tests.support.s3 import S3Target
from tests.support.swift import Swift

AT_NS = 1_700_000_000_000_000_000
MEBIBYTE = 1 << 20


def connect(target: S3Target, secret_key: str | None = None) -> Minio:
    return Minio(
        target.endpoint,
        access_key=target.access_key,
        secret_key=secret_key or target.secret_key,
        secure=False,
    )


def put(client: Minio, bucket: str, name: str, body: bytes) -> None:
    client.put_object(bucket, name, io.BytesIO(body), len(body))


def get(client: Minio, bucket: str, name: str) -> bytes:
    response = client.get_object(bucket, name)
    try:
        return response.read()
    finally:
        response.close()
        response.release_conn()


def write(target: InfluxTarget, *lines: str, bucket: str | None = None) -> None:
    with (
        InfluxDBClient(target.url, target.token, org=target.org) as client,
        client.write_api(write_options=SYNCHRONOUS) as api,
    ):
        api.write(bucket or target.bucket, record=list(lines))


def ask(receiver: Receiver, path: str = "/", body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_object_store_keeps_objects(s3: S3Target) -> None:
    client = connect(s3)
    client.make_bucket("small")

    put(client, "small", "events/a.zst", b"one")

    assert get(client, "small", "events/a.zst") == b"one"
    listed = client.list_objects("small", "events/", recursive=True)
    assert [item.object_name for item in listed] == ["events/a.zst"]


def test_the_object_store_takes_multipart_uploads(s3: S3Target) -> None:
    client = connect(s3)
    client.make_bucket("large")
    body = b"0123456789abcdef" * (11 * MEBIBYTE // 16)

    client.put_object("large", "big", io.BytesIO(body), -1, part_size=5 * MEBIBYTE)

    assert get(client, "large", "big") == body


def test_the_object_store_refuses_a_wrong_secret(s3: S3Target) -> None:
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        connect(s3, secret_key="guessed").make_bucket("refused")


def test_the_object_store_keeps_objects_over_a_crash(swift: Swift) -> None:
    client = connect(swift.target)
    client.make_bucket("crash")
    put(client, "crash", "a", b"kept")

    swift.kill()
    swift.start()

    assert get(client, "crash", "a") == b"kept"


def test_influx_keeps_the_types_of_fields(influx: InfluxTarget) -> None:
    write(influx, f'm,host=nas i=1i,f=2.5,b=true,s="on" {AT_NS}')

    assert influx.select("SELECT * FROM m") == [
        {"time": AT_NS, "host": "nas", "i": 1, "f": 2.5, "b": True, "s": "on"}
    ]


def test_influx_refuses_the_line_that_conflicts_and_keeps_the_others(
    influx: InfluxTarget,
) -> None:
    write(influx, f"m value=1 {AT_NS}")

    with pytest.raises(ApiException, match="field type conflict") as refused:
        write(influx, f'm value="text" {AT_NS + 1}', f"m value=2 {AT_NS + 2}")

    assert 400 <= refused.value.status < 500
    assert [row["value"] for row in influx.select("SELECT value FROM m")] == [1, 2]


def test_influx_refuses_an_unparsable_line(influx: InfluxTarget) -> None:
    with pytest.raises(ApiException, match="unable to parse"):
        write(influx, "not a point at all")


def test_influx_knows_no_bucket_that_was_not_made(influx: InfluxTarget) -> None:
    with pytest.raises(ApiException) as refused:
        write(influx, "m value=1", bucket="elsewhere")

    assert refused.value.status == 404


def test_the_receiver_records_requests(receiver: Receiver) -> None:
    assert ask(receiver, "/hook?a=1", b"{}") == (200, b"")

    (request,) = receiver.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook?a=1", b"{}")
    assert request.headers["content-length"] == "2"


def test_the_receiver_answers_as_scripted_then_as_always(receiver: Receiver) -> None:
    receiver.script(Answer(503, b"busy", delay_seconds=0.01), Answer(429))
    receiver.always = Answer(201, b"made")

    assert [ask(receiver) for _ in range(3)] == [
        (503, b"busy"),
        (429, b""),
        (201, b"made"),
    ]


def test_a_stopped_receiver_cuts_connections_and_comes_back_on_its_port(
    receiver: Receiver,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port)
    connection.request("GET", "/")
    connection.getresponse().read()

    receiver.stop()

    with pytest.raises(ConnectionError):
        ask(receiver)
    connection.request("GET", "/")
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()

    receiver.start()
    assert ask(receiver) == (200, b"")
