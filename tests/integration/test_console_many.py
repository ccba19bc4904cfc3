"""The console with many sensors, many pages and browsers that hang up."""

from __future__ import annotations

import json
import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import requests

from meshtasks.amqp.publisher import Outgoing, Publisher
from tests.support.amqp import drain
from tests.support.gateway import Gateway, token_of
from tests.support.viewers import Viewer, session_cookie
from tests.support.waiting import wait_until

TEMPERATURES = "sensors.temperature"
_SENSORS, _PAGES = 500, 20
#: An answer to whoever hangs up is never read: the connection is reset.
_RESET = struct.pack("ii", 1, 0)


def readings(url: str, sensors: range) -> None:
    """Publish a reading of each."""
    with closing(Publisher(url)) as publisher:
        publisher.publish(
            [
                Outgoing(
                    "sensors",
                    f"{TEMPERATURES}.s{number}",
                    json.dumps(
                        {
                            "sensor_id": f"probe {number}",
                            "value": 20.25,
                            "location": f"hall {number % 50}",
                        }
                    ).encode(),
                )
                for number in sensors
            ]
        )


def sees_all(page: Viewer) -> None:
    page.wait_for(f"probe {_SENSORS - 1}")
    page.wait_for("hall 49")


def test_twenty_pages_show_five_hundred_sensors(
    console: Gateway, console_url: str
) -> None:
    cookie = session_cookie(console.url, token_of("visitor"))
    with ThreadPoolExecutor(_PAGES) as threads, ExitStack() as stack:
        first = stack.enter_context(Viewer(console.url, cookie))

        def is_listened_to() -> bool:
            readings(console_url, range(1))
            first.read(1.0)
            return "hall 0" in first.received

        wait_until(is_listened_to, 60, "the first reading")
        readings(console_url, range(_SENSORS))
        looks = [threads.submit(sees_all, first)]
        for _ in range(_PAGES - 1):  # each answers the gateway's pings meanwhile
            page = stack.enter_context(Viewer(console.url, cookie))
            looks.append(threads.submit(sees_all, page))

        for look in looks:
            look.result()
    drain(console_url, TEMPERATURES)


def test_a_browser_that_hangs_up_leaves_no_traceback(console: Gateway) -> None:
    cookie = session_cookie(console.url, token_of("visitor"))
    page = requests.get(console.url, headers={"Cookie": cookie}, timeout=300).text
    programs = sorted(set(re.findall(r"/_nicegui/[^\"'` )]+\.(?:js|css)", page)))
    assert programs
    for program in programs * 5:
        with socket.create_connection(("127.0.0.1", console.port), 60) as connection:
            request = f"GET {program} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.sendall(request.encode())
    answer = requests.get(console.url + programs[0], timeout=300)

    assert answer.ok
    assert "immutable" in answer.headers["Cache-Control"]
    assert "Traceback" not in console.process.output()
