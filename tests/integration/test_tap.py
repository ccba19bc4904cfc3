"""``meshtasks tap`` against a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtasks.amqp.publisher import Outgoing, Publisher
from tests.support.amqp import queue_depth
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("meshtasks")
KITCHEN = "sensors.temperature.kitchen"


@contextmanager
def tapping(
    url: str, directory: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """The command, once it listens."""
    complaints = directory / "stderr"
    with complaints.open("w") as stderr:
        process = subprocess.Popen(
            [COMMAND, "tap", *arguments],
            env={**os.environ, "MESH_BROKER_URL": url},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        wait_until(lambda: "listening" in complaints.read_text(), 60, "the tap")
        yield process
    finally:
        process.kill()
        process.communicate()


def publish(url: str, *messages: Outgoing) -> None:
    publisher = Publisher(url)
    publisher.publish(messages)
    publisher.close()


def reading(routing_key: str = KITCHEN, body: bytes = b'{"value": 21.5}') -> Outgoing:
    return Outgoing("sensors", routing_key, body)


def test_a_copy_is_shown_and_the_message_stays_in_its_queue(
    mesh_url: str, tmp_path: Path
) -> None:
    with tapping(mesh_url, tmp_path, "sensors.#", "--count", "1", "--json") as tap:
        publish(mesh_url, reading())

        output, _ = tap.communicate(timeout=300)

    (line,) = map(json.loads, output.splitlines())
    assert (line["exchange"], line["routing_key"]) == ("sensors", KITCHEN)
    assert line["body"] == '{"value": 21.5}'
    assert tap.returncode == 0
    assert queue_depth(mesh_url, "sensors.temperature") == 1


def test_what_the_pattern_does_not_match_passes_unseen(
    mesh_url: str, tmp_path: Path
) -> None:
    alert = Outgoing("alerts", "alerts.attic", b'{"title": "hot"}')
    with tapping(mesh_url, tmp_path, "*.humidity.#", "--count", "1") as tap:
        publish(mesh_url, reading(), alert, reading("sensors.humidity.bath"))

        output, _ = tap.communicate(timeout=300)

    assert [line.split()[2] for line in output.splitlines()] == [
        "sensors.humidity.bath"
    ]


@pytest.mark.parametrize(
    ("exchange", "key"),
    [("dead.letter", "#"), ("alerts", "alerts.attic"), ("amq.topic", "x.y")],
)
def test_every_type_of_exchange_can_be_listened_on(
    mesh_url: str, tmp_path: Path, exchange: str, key: str
) -> None:
    with tapping(mesh_url, tmp_path, "--exchange", exchange, "--count", "1") as tap:
        publish(mesh_url, Outgoing(exchange, key, b"{}"))

        output, _ = tap.communicate(timeout=300)

    assert f" {exchange} {key} {{}}" in output


def test_no_body_steers_the_terminal(mesh_url: str, tmp_path: Path) -> None:
    body = b'\x1b]0;owned\x07\xff\r\n"two lines"'
    with tapping(mesh_url, tmp_path, "--count", "1") as tap:
        publish(mesh_url, reading(body=body))

        output, _ = tap.communicate(timeout=300)

    assert output.count("\n") == 1
    assert "\\u001b]0;owned\\u0007\\xff" in output


def test_it_listens_again_after_the_connection_was_lost(
    proxy: Proxy, mesh_url: str, tmp_path: Path
) -> None:
    with tapping(proxy.url(mesh_url), tmp_path, "--count", "1") as tap:
        proxy.cut()
        listening = (tmp_path / "stderr").read_text
        wait_until(lambda: listening().count("listening") == 2, 60, "a new tap")
        publish(mesh_url, reading())

        output, _ = tap.communicate(timeout=300)

    assert KITCHEN in output
    assert "trying again" in listening()


def test_a_signal_ends_it_without_a_complaint(mesh_url: str, tmp_path: Path) -> None:
    with tapping(mesh_url, tmp_path) as tap:
        tap.send_signal(signal.SIGINT)

        assert tap.wait(300) == 0


def test_fewer_messages_than_were_asked_for_are_a_failure(
    mesh_url: str, tmp_path: Path
) -> None:
    with tapping(mesh_url, tmp_path, "--count", "1", "--for", "1s") as tap:
        assert tap.wait(300) == 1

    assert "0 of 1 messages passed in 1s" in (tmp_path / "stderr").read_text()


def test_an_exchange_that_is_misspelt_is_named() -> None:
    done = subprocess.run(
        [COMMAND, "tap", "--exchange", "sensor"],
        env={**os.environ, "MESH_BROKER_URL": "amqp://u:p@127.0.0.1:1/mesh"},
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )

    assert done.returncode == 2
    assert "topology.yaml has no exchange sensor; did you mean sensors?" in done.stderr
