"""``meshtasks publish`` against a real broker; a process, where lines come late."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.amqp import drain, open_channel, queue_depth, take
from tests.support.command import command_in
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("meshtasks")
TEMPERATURES = "sensors.temperature"
KITCHEN = ("sensors", "sensors.temperature.kitchen")

Publish = Callable[..., tuple[str, str]]


def started(url: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, "publish", *arguments],
        env={**os.environ, "MESH_BROKER_URL": url, "COLUMNS": "200"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def publish(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Publish:
    """Runs the command to its end; what it printed, and its complaints."""

    def publish(
        url: str, *arguments: str, stdin: bytes = b"", exit_code: int = 0
    ) -> tuple[str, str]:
        run = command_in(
            {"MESH_BROKER_URL": url, "COLUMNS": "200"}, monkeypatch, capsys
        )
        file = tmp_path / "stdin"
        file.write_bytes(stdin)
        with file.open() as lines:
            monkeypatch.setattr(sys, "stdin", lines)
            done = run("publish", *arguments)
        assert done.exit_code == exit_code, done.stderr
        return done.stdout, done.stderr

    return publish


def test_a_document_given_as_argument_is_published(
    publish: Publish, mesh_url: str
) -> None:
    output, _ = publish(mesh_url, *KITCHEN, '{"value": 21.5}')

    assert output == "1 message confirmed\n"
    (delivery,) = drain(mesh_url, TEMPERATURES)
    assert delivery.body == b'{"value": 21.5}'
    assert (delivery.exchange, delivery.routing_key) == KITCHEN
    assert delivery.properties["content_type"] == "application/json"
    assert delivery.properties["delivery_mode"] == 2
    assert delivery.properties["message_id"]
    assert delivery.properties["timestamp"]


def test_every_line_of_standard_input_is_a_message_of_its_own(
    publish: Publish, mesh_url: str
) -> None:
    lines = [b'{"value": %d}' % number for number in range(1_500)]

    output, _ = publish(mesh_url, *KITCHEN, stdin=b"\n".join(lines))

    assert output == "1500 messages confirmed\n"
    deliveries = drain(mesh_url, TEMPERATURES)
    assert [each.body for each in deliveries] == lines
    assert len({each.properties["message_id"] for each in deliveries}) == 1_500


def test_blank_lines_and_windows_line_ends_are_passed_over(
    publish: Publish, mesh_url: str
) -> None:
    publish(mesh_url, *KITCHEN, "-", stdin=b'{"value": 1}\r\n\n  \n{"value": 2}\r\n')

    assert [each.body for each in drain(mesh_url, TEMPERATURES)] == [
        b'{"value": 1}',
        b'{"value": 2}',
    ]


def test_a_line_is_published_while_the_next_is_not_written_yet(mesh_url: str) -> None:
    process = started(mesh_url, *KITCHEN)
    assert process.stdin
    process.stdin.write(b'{"value": 1}\n')
    process.stdin.flush()

    wait_until(lambda: queue_depth(mesh_url, TEMPERATURES) == 1, 30.0, "the first line")
    process.communicate(b'{"value": 2}\n', timeout=300)
    assert queue_depth(mesh_url, TEMPERATURES) == 2


def test_lines_are_packed_into_arrays(publish: Publish, mesh_url: str) -> None:
    lines = b"".join(b"%d\n" % number for number in range(25))

    output, _ = publish(mesh_url, *KITCHEN, "--array=10", stdin=lines)

    arrays = [json.loads(each.body) for each in drain(mesh_url, TEMPERATURES)]
    assert [len(array) for array in arrays] == [10, 10, 5]
    assert [number for array in arrays for number in array] == list(range(25))
    assert output == "3 messages confirmed\n"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"value": 21.5', "EOF"),
        (b'{"value": NaN}', "expected value"),
        (b'{"unit": "\xb0C"}', "invalid unicode"),
    ],
    ids=["cut off", "NaN", "Latin-1"],
)
def test_a_bad_line_is_named_and_nothing_of_its_batch_is_sent(
    publish: Publish, mesh_url: str, bad: bytes, reason: str
) -> None:
    lines = b'{"value": 1}\n\n' + bad + b'\n{"value": 2}\n'

    _, errors = publish(mesh_url, *KITCHEN, stdin=lines, exit_code=os.EX_DATAERR)

    assert "line 3 is not JSON" in errors
    assert reason in errors
    assert "0 messages confirmed" in errors
    assert queue_depth(mesh_url, TEMPERATURES) == 0


def test_after_a_bad_line_it_says_where_to_go_on(mesh_url: str) -> None:
    process = started(mesh_url, *KITCHEN)
    assert process.stdin
    process.stdin.write(b"1\n2\n")
    process.stdin.flush()
    wait_until(lambda: queue_depth(mesh_url, TEMPERATURES) == 2, 30.0, "two lines")

    _, errors = process.communicate(b"3\nbad\n", timeout=300)

    assert process.returncode == os.EX_DATAERR
    assert b"line 4 is not JSON" in errors
    assert b"2 messages confirmed: all before line 3" in errors
    assert b"tail -n +3" in errors


def test_lines_that_wait_for_their_array_are_not_called_published(
    mesh_url: str,
) -> None:
    process = started(mesh_url, *KITCHEN, "--array=2")
    assert process.stdin
    process.stdin.write(b"1\n2\n3\n")
    process.stdin.flush()
    wait_until(lambda: queue_depth(mesh_url, TEMPERATURES) == 1, 30.0, "an array")

    _, errors = process.communicate(b"bad\n", timeout=300)

    assert b"line 4 is not JSON" in errors
    assert b"1 message confirmed: all before line 3" in errors


def test_an_argument_that_is_not_json_is_refused(
    publish: Publish, mesh_url: str
) -> None:
    _, errors = publish(mesh_url, *KITCHEN, "{value: 1}", exit_code=os.EX_DATAERR)

    assert "not JSON" in errors
    assert queue_depth(mesh_url, TEMPERATURES) == 0


def test_raw_sends_anything_as_one_body(publish: Publish, mesh_url: str) -> None:
    body = b"not\njson \xff\n"

    publish(mesh_url, *KITCHEN, "--raw", stdin=body)
    publish(mesh_url, *KITCHEN, "--raw", "{value: 1}")

    assert [each.body for each in drain(mesh_url, TEMPERATURES)] == [
        body,
        b"{value: 1}",
    ]


def test_headers_are_sent(publish: Publish, mesh_url: str) -> None:
    publish(mesh_url, *KITCHEN, "1", "--header=origin=by hand", "--header=empty=")

    (delivery,) = drain(mesh_url, TEMPERATURES)
    assert delivery.headers["origin"] == "by hand"
    assert delivery.headers["empty"] == ""


def test_a_key_that_no_binding_matches_is_warned_of_with_the_bindings(
    publish: Publish,
    mesh_url: str,
) -> None:
    output, errors = publish(
        mesh_url, "sensors", "sensors.temprature.kitchen", "1", exit_code=1
    )

    assert "'sensors.temprature.kitchen'; it goes to dead.letter.queue" in errors
    assert "sensors.temperature.# -> sensors.temperature" in errors
    assert "add a binding there and run `meshtasks topology apply`" in errors
    assert output == "1 message confirmed\n"
    assert queue_depth(mesh_url, "dead.letter.queue") == 1


def test_a_message_without_a_queue_gives_1_and_the_bindings(
    publish: Publish, amqp_url: str
) -> None:
    with open_channel(amqp_url) as channel:
        channel.exchange_declare("sensors", "topic", durable=True, auto_delete=False)

    _, errors = publish(amqp_url, *KITCHEN, "1", exit_code=1)

    assert "no queue is bound for exchange 'sensors'" in errors
    assert "sensors.temperature.# -> sensors.temperature" in errors
    assert "meshtasks topology apply" in errors


def test_an_exchange_that_does_not_exist_gives_1_and_the_exchanges(
    publish: Publish,
    mesh_url: str,
) -> None:
    _, errors = publish(mesh_url, "sensor", "sensors.x", "1", exit_code=1)

    assert "no exchange 'sensor'" in errors
    assert "The mesh has these exchanges: home.events, sensors," in errors


def test_without_a_broker_it_gives_69_and_the_next_step(
    publish: Publish, amqp_url: str, proxy: Proxy
) -> None:
    proxy.close_door()

    _, errors = publish(
        proxy.url(amqp_url), *KITCHEN, stdin=b"1\n", exit_code=os.EX_UNAVAILABLE
    )

    assert "Nothing was published" in errors
    assert "MESH_BROKER_URL" in errors


def test_a_lost_connection_is_made_again_and_no_line_is_lost(
    mesh_url: str, proxy: Proxy
) -> None:
    process = started(proxy.url(mesh_url), *KITCHEN)
    assert process.stdin
    for number in range(20):
        process.stdin.write(b"%d\n" % number)
        process.stdin.flush()
        wait_until(
            lambda some=number: queue_depth(mesh_url, TEMPERATURES) > some,  # type: ignore[misc]
            30.0,
            "the line",
        )
        proxy.cut()
    output, errors = process.communicate(timeout=300)

    assert process.returncode == 0, errors
    assert output == b"20 messages confirmed\n"
    ids: dict[bytes, str] = {}
    for each in take(mesh_url, TEMPERATURES, 20):
        message_id = each.properties["message_id"]
        assert ids.setdefault(each.body, message_id) == message_id
    assert set(ids) == {b"%d" % number for number in range(20)}


def test_when_patience_ends_it_says_what_was_confirmed(
    mesh_url: str, proxy: Proxy
) -> None:
    process = started(proxy.url(mesh_url), *KITCHEN, "--patience=0")
    assert process.stdin
    for number in (1, 2):
        process.stdin.write(b"%d\n" % number)
        process.stdin.flush()
        wait_until(
            lambda some=number: queue_depth(mesh_url, TEMPERATURES) == some,  # type: ignore[misc]
            30.0,
            "the line",
        )
    proxy.close_door()

    _, errors = process.communicate(b"3\n", timeout=300)

    assert process.returncode == os.EX_UNAVAILABLE
    # the second line's confirm may have been on its way
    said = re.search(rb"(\d) messages? confirmed: all before line (\d)", errors)
    assert said
    assert int(said[2]) == int(said[1]) + 1 >= 2


@pytest.mark.parametrize(
    "arguments",
    [
        (*KITCHEN, "1", "--array=2"),
        (*KITCHEN, "--raw", "--array=2"),
        (*KITCHEN, "1", "--header=novalue"),
        ("sensors", "k" * 256, "1"),
    ],
    ids=["array of one", "raw array", "bad header", "long routing key"],
)
def test_wrong_usage_is_refused(publish: Publish, arguments: tuple[str, ...]) -> None:
    publish("amqp://127.0.0.1:1/", *arguments, exit_code=2)
