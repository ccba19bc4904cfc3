"""The console of a busy mesh: time to load a page, and cost of open pages.

::

    python -m benchmarks.console [--sensors 500] [--letters 100000]
                                 [--rounds 5] [--seconds 10]

All queues are busy (20 messages a second each, consumed at once), and there are dead
letters. Pages are loaded with Chromium. Pages that only stay open are web sockets
without a browser, so that its processor time is not counted. Their cost is the median
of rounds, each without and with them: the load of the queues themselves on the broker
varies by more than a page costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from statistics import median

from benchmarks import ROOT
from benchmarks.deadletters import bury, make_space
from benchmarks.figures import usage
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.browser import Browser
from tests.support.gateway import Gateway, token_of
from tests.support.viewers import Viewer, session_cookie

_PER_SECOND = 20
_ROOMS = 50
_PAGES = 20
#: After the last page the mesh is looked at for half a minute more.
_REST_SECONDS = 40.0
_FIRST_VIEW_SECONDS, _SHARE = 1.5, 0.03
_POLL_SECONDS = 0.01


def main() -> int:
    """Measure, and print the figures; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sensors", type=int, default=500)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        node = RabbitMQ(Path(directory) / "broker")
        node.start()
        try:
            return _measure(node, Path(directory), options)
        finally:
            node.kill()


def _measure(node: RabbitMQ, directory: Path, options: argparse.Namespace) -> int:
    url = make_space(node, "console")
    bury(url, options.letters)
    gateway = Gateway(
        directory,
        {
            "MESH_BROKER_URL": url,
            "MESH_MANAGEMENT_URL": node.management_url,
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
            "MESH_ARCHIVE_URL": f"file://{directory}/archive",
        },
    )
    gateway.start()
    met = True
    try:
        with _busy(url, options.sensors), Browser(directory) as browser:
            entrance = f"{gateway.url}/login?token={token_of('operator')}"
            form = _view(browser, gateway.url, "Token with the scope")
            print(f"the login after the gateway's start: {form:.2f} s")
            first = _view(browser, entrance, "dead letters")
            print(f"the first page, logged in without a pause: {first:.2f} s")
            browser.open("about:blank")  # nobody takes what it says meanwhile
            cookie = session_cookie(gateway.url, token_of("operator"))
            with Viewer(gateway.url, cookie) as viewer:  # until all sensors have spoken
                viewer.wait_for(f"sensor {options.sensors - 1}")
            for path in ("/", "/dead-letters"):
                address = gateway.url + path
                views = [_view(browser, address, "dead letters") for _ in range(5)]
                met &= _judged(
                    f"{path}, the median of five views, s",
                    median(views),
                    _FIRST_VIEW_SECONDS,
                )
            browser.open("about:blank")
            for pages in (1, _PAGES):
                share = median(
                    _cost(node, gateway, cookie, pages, options.seconds)
                    for _ in range(options.rounds)
                )
                what = f"{pages} open, share of a core more, a page"
                if pages == 1:
                    met &= _judged(what, share, _SHARE)
                else:
                    print(f"{what}: {share / pages:.4f}, {share:.3f} in all")
    finally:
        gateway.stop()
    return 0 if met else 1


def _judged(what: str, value: float, most: float) -> bool:
    is_met = value <= most
    print(f"{what}: {value:.3f}, at most {most:g}: {'met' if is_met else 'NOT MET'}")
    return is_met


def _view(browser: Browser, address: str, text: str) -> float:
    """Seconds until a page shows a text."""
    browser.open("about:blank")
    began = time.perf_counter()
    browser.open(address)
    shown = "(document.querySelector('main') || {}).innerText || ''"
    while text not in str(browser.evaluate(shown)):
        time.sleep(_POLL_SECONDS)
    return time.perf_counter() - began


def _cost(
    node: RabbitMQ, gateway: Gateway, cookie: str, pages: int, seconds: float
) -> float:
    """The share of a core that broker and gateway take more with pages open."""
    time.sleep(_REST_SECONDS)
    without = _shares(node, gateway, seconds)
    with _open(gateway, cookie, pages):
        shares = _shares(node, gateway, seconds)
    broker, served = (b - a for a, b in zip(without, shares, strict=True))
    print(f"{pages} open: {broker:+.1%} for the broker, {served:+.1%} for the gateway")
    return broker + served


@contextmanager
def _open(gateway: Gateway, cookie: str, pages: int) -> Iterator[None]:
    """So many first pages, each of which takes what it is sent."""
    stopping = threading.Event()
    with ExitStack() as stack:
        viewers = [
            stack.enter_context(Viewer(gateway.url, cookie)) for _ in range(pages)
        ]

        def take(viewer: Viewer) -> None:
            while not stopping.is_set():
                viewer.read(0.5)
                viewer.received = ""

        for viewer in viewers:
            viewer.wait_for("dead letters")
            threading.Thread(target=take, args=(viewer,), daemon=True).start()
        time.sleep(3.0)
        try:
            yield
        finally:
            stopping.set()
            time.sleep(1.0)


def _shares(node: RabbitMQ, gateway: Gateway, seconds: float) -> list[float]:
    """The shares of a core that broker and gateway take now."""

    def used() -> list[float]:
        return [
            usage(pid).cpu_seconds for pid in (node.process.pid, gateway.process.pid)
        ]

    before, began = used(), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    return [(now - then) / took for then, now in zip(before, used(), strict=True)]


@contextmanager
def _busy(url: str, sensors: int) -> Iterator[None]:
    """Messages come to all queues, and are taken."""
    topology = load_yaml(ROOT / "config" / "topology.yaml", Topology)
    stopping = threading.Event()
    threads = [
        threading.Thread(target=_publish, args=(url, topology, sensors, stopping)),
        threading.Thread(target=_take, args=(url, topology, stopping)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _publish(
    url: str, topology: Topology, sensors: int, stopping: threading.Event
) -> None:
    others = [
        (binding.exchange, binding.routing_key.replace("*", "x").replace("#", "x.y"))
        for binding in topology.bindings
        if binding.queue in topology.domain_queues
        and binding.queue != "sensors.temperature"
    ]
    number = 0
    with closing(Publisher(url)) as publisher:
        while not stopping.wait(1 / _PER_SECOND):
            messages = [Outgoing(*way, b'{"at": "the benchmark"}') for way in others]
            for _ in range(2):
                sensor = number % sensors
                number += 1
                body = {
                    "sensor_id": f"sensor {sensor}",
                    "value": 20 + number % 7 / 10,
                    "location": f"room {sensor % _ROOMS}",
                }
                key = f"sensors.temperature.sensor-{sensor}"
                messages.append(Outgoing("sensors", key, json.dumps(body).encode()))
            publisher.publish(messages)


def _take(url: str, topology: Topology, stopping: threading.Event) -> None:
    with connected(url) as connection:
        channel = connection.channel()

        def acknowledge(message: Message) -> None:
            channel.basic_ack(message.delivery_tag)

        channel.basic_qos(0, 500, a_global=False)
        for queue in topology.domain_queues:
            channel.basic_consume(queue, callback=acknowledge)
        while not stopping.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.5)


if __name__ == "__main__":
    sys.exit(main())
