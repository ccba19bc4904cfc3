"""Listing 100,000 dead letters, and replaying 10,000 of them, killed half-way.

::

    python -m benchmarks.deadletters [--letters 100000] [--replayed 10000]

``meshtasks dlq list`` is compared with a bare consumer that receives the same messages
and does nothing with them, the lower limit of the time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import kombu

from benchmarks import ROOT
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.demo.rabbitmq import RabbitMQ

QUEUE, ORIGIN = "dead.letter.queue", "sensors.temperature"
_TRACEBACK = "  File 'handler.py', line 1, in store\n" * 40


class Ran(NamedTuple):
    """A command that was run: seconds until it ended, peak resident set, output."""

    seconds: float
    peak_rss_bytes: int
    output: str


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--replayed", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        node = RabbitMQ(Path(directory))
        node.start()
        try:
            _measure(node, arguments.letters, arguments.replayed)
        finally:
            node.kill()


def _measure(node: RabbitMQ, letters: int, replayed: int) -> None:
    url = make_space(node, "list")
    bury(url, letters)
    print(f"broker, {letters:,} letters in it: {_broker_mb(node):.0f} MB")
    listed = _run(url, "dlq", "list")
    print(f"dlq list: {_told(listed, letters)}; broker {_broker_mb(node):.0f} MB")
    again = _run(url, "dlq", "list")
    print(f"dlq list again: {_told(again, letters)}; broker {_broker_mb(node):.0f} MB")
    bare = _run_script(_BARE, url, QUEUE, str(letters))
    print(f"bare consumer: {_told(bare, letters)}")
    print(f"dlq list takes {listed.seconds / bare.seconds:.2f} of its time")
    node.delete_vhost("list")

    url = make_space(node, "replay")
    bury(url, replayed)
    whole = _run(url, "dlq", "replay", "--all")
    print(f"dlq replay: {_told(whole, replayed)}")
    node.delete_vhost("replay")

    url = make_space(node, "killed")
    bury(url, replayed)
    back = _killed_half_way(url, replayed)
    rest = _run(url, "dlq", "replay", "--all")
    ids = _drained(url)
    print(f"killed with {back:,} given back; resumed: {_told(rest, replayed)}")
    print(
        f"ledger: {replayed:,} letters; {len(ids):,} different messages given back, "
        f"{ids.total() - len(ids):,} of them twice; {_ready(url, QUEUE):,} still dead"
    )
    balances = len(ids) == replayed and _ready(url, QUEUE) == 0
    print("the ledger balances" if balances else "THE LEDGER DOES NOT BALANCE")
    sys.exit(0 if balances else 1)


def make_space(node: RabbitMQ, name: str) -> str:
    """A virtual host with the topology; its URL."""
    node.create_vhost(name)
    url = node.amqp_url(name)
    with connected(url) as connection:
        declare(connection, load_yaml(ROOT / "config" / "topology.yaml", Topology))
    return url


def bury(url: str, count: int) -> None:
    """Dead letters as workers write them; one in four has a traceback."""
    with closing(Publisher(url)) as publisher:
        for start in range(0, count, 5_000):
            publisher.publish(
                [_letter(number) for number in range(start, min(count, start + 5_000))]
            )


def _letter(number: int) -> Outgoing:
    headers: dict[str, object] = {
        "x-mesh-exchange": "sensors",
        "x-mesh-routing-key": f"sensors.temperature.room-{number % 40}",
        "x-mesh-received-at": 1_795_435_199.0,
        "x-mesh-queue": ORIGIN,
        "x-mesh-reason": f'value: expected a number, got the text "n/a {number}"',
        "x-mesh-error-type": ("SchemaMismatch", "UnknownUnit")[number % 2],
        "x-mesh-error-message": "value: expected a number",
        "x-mesh-traceback": _TRACEBACK if number % 4 == 0 else "",
        "x-mesh-retries": 0,
        "x-mesh-task": ORIGIN,
        "x-mesh-task-id": f"task-{number}",
        "x-mesh-failed-at": "2026-11-23T12:00:00+00:00",
        "x-mesh-worker": "celery@rack",
    }
    body = b'{"sensor_id": "attic-1", "value": "n/a", "n": %d}' % number
    return Outgoing("dead.letter", "#", body, str(number), headers=headers)


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("meshtasks")), *arguments]


def _environment(url: str) -> dict[str, str]:
    return {
        **os.environ,
        "MESH_BROKER_URL": url,
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "PYTHONPATH": str(ROOT),
    }


def _run(url: str, *arguments: str) -> Ran:
    return _timed(_command(*arguments), url)


#: Takes so many messages, and prints the seconds from the first to the last.
_BARE = """
import sys, time, kombu
url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
taken = 0
def take(message):
    global taken
    taken += 1
    if taken % 500 == 0:
        channel.basic_ack(message.delivery_tag, multiple=True)
with kombu.Connection(url) as connection:
    channel = connection.channel()
    channel.auto_decode = False
    channel.basic_qos(0, 2000, False)
    channel.basic_consume(queue, callback=take)
    while taken < count:
        connection.drain_events(timeout=60)
"""


def _run_script(script: str, url: str, *arguments: str) -> Ran:
    return _timed([sys.executable, "-c", script, url, *arguments], url)


def _timed(command: Sequence[str], url: str) -> Ran:
    """Run a command to its end."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=_environment(url), stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        output.seek(0)
        said = output.read()
    if process.returncode:
        message = f"{command[0]} ended with {process.returncode}: {said}"
        raise RuntimeError(message)
    return Ran(seconds, used.ru_maxrss * 1024, said)


def _killed_half_way(url: str, count: int) -> int:
    """Kill a replay when half of the letters are in their queue; how many were."""
    process = subprocess.Popen(
        _command("dlq", "replay", "--all"),
        env=_environment(url),
        stdout=subprocess.DEVNULL,
    )
    while _ready(url, ORIGIN) < count / 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    back = _ready(url, ORIGIN)
    while _ready(url, QUEUE) + back < count:  # the broker brings back what it held
        time.sleep(0.05)
    return back


def _drained(url: str) -> Counter[str]:
    """Message ids of everything in the origin queue."""
    ids: Counter[str] = Counter()
    left = _ready(url, ORIGIN)

    def take(message: Any) -> None:
        ids[message.properties["message_id"]] += 1

    with kombu.Connection(url) as connection:
        channel = connection.channel()
        channel.auto_decode = False
        channel.basic_consume(ORIGIN, no_ack=True, callback=take)
        while ids.total() < left:
            connection.drain_events(timeout=60)
    return ids


def _ready(url: str, queue: str) -> int:
    with kombu.Connection(url) as connection:
        declared = connection.channel().queue_declare(queue, passive=True)
    return int(declared.message_count)


def _broker_mb(node: RabbitMQ) -> float:
    """Resident set of the broker's virtual machine."""
    pid = node.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    sizes = [_rss_kb(pid), *(_rss_kb(int(child)) for child in children)]
    return max(sizes) / 1024


def _rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _told(ran: Ran, count: int) -> str:
    peak_mb = ran.peak_rss_bytes / 1e6
    return (
        f"{ran.seconds:.1f} s ({count / ran.seconds:,.0f} a second), "
        f"peak {peak_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
