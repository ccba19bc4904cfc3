"""The console, as a person uses it in a browser."""

from __future__ import annotations

from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest
import requests

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.gateway.console import PAGES
from tests.support.amqp import drain, queue_depth
from tests.support.browser import Browser
from tests.support.gateway import Gateway, token_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TEMPERATURES = "sensors.temperature"
#: Wide and light, narrow and dark.
SHAPES = [(1280, False), (390, True)]


@pytest.fixture
def url(console_url: str) -> str:
    return console_url


def publish(url: str, *messages: Outgoing) -> None:
    with closing(Publisher(url)) as publisher:
        publisher.publish(messages)


def reading(body: bytes) -> Outgoing:
    return Outgoing("sensors", f"{TEMPERATURES}.kitchen", body)


class TestLogin:
    def test_without_a_session_every_page_leads_to_the_login(
        self, console: Gateway
    ) -> None:
        for path in PAGES:
            answer = requests.get(console.url + path, timeout=60, allow_redirects=False)
            assert answer.status_code == HTTPStatus.SEE_OTHER
            assert answer.headers["Location"].startswith("/login?next=/")

    def test_a_token_that_may_not_look_is_refused(self, console: Gateway) -> None:
        for token in (token_of("sensor"), "guess" * 8, ""):
            answer = console.request(
                "POST", "/login", caller=None, data={"token": token}
            )
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                assert answer.status_code == HTTPStatus.FORBIDDEN
            assert "mesh_session" not in answer.headers.get("Set-Cookie", "")

    def test_what_is_no_part_of_the_interface_is_a_problem_and_no_page(
        self, console: Gateway
    ) -> None:
        answer = console.get("/v1/nothing")

        assert answer.status_code == HTTPStatus.NOT_FOUND
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.usefixtures("chromium")
class TestPages:
    @pytest.mark.parametrize(("width", "dark"), SHAPES)
    def test_every_page_fits_its_window_and_loads_nothing_from_elsewhere(
        self, console: Gateway, page: Browser, width: int, *, dark: bool
    ) -> None:
        page.look(width=width, dark=dark)
        page.requested.clear()
        for path in PAGES:
            page.open(console.url + path)
            wait_until(
                lambda: page.evaluate("!!document.querySelector('h1')"), 60, path
            )
            widest = page.evaluate("document.documentElement.scrollWidth")
            assert widest <= width, path
        local = (console.url, console.url.replace("http", "ws"), "data:", "blob:")
        assert [each for each in page.requested if not each.startswith(local)] == []

    def test_a_reading_is_seen_on_the_first_page_in_its_canonical_unit(
        self, home: Browser, url: str
    ) -> None:
        home.wait_for("wait")  # the mesh is being looked at
        body = b'{"sensor_id": "k1", "location": "kitchen", "value": 71.6, "unit": "F"}'

        def is_seen() -> bool:
            publish(url, reading(body))
            return "kitchen" in home.text() and "22 °C" in home.text()

        wait_until(is_seen, 60, "the reading")
        drain(url, TEMPERATURES)

    def test_messages_are_seen_as_they_pass_and_stay_in_their_queue(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        page.open(f"{console.url}/live?pattern=sensors.%23")
        page.wait_for("Listening for sensors.#")
        publish(url, reading(b'{"value": "<img src=x onerror=alert(1)>"}'))

        page.wait_for("onerror=alert(1)")

        assert queue_depth(url, TEMPERATURES) == 1
        drain(url, TEMPERATURES)

    def test_what_would_become_of_a_message_is_said_while_it_is_typed(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/try")
        page.wait_for("This would be stored as 22 °C of attic")

        page.fill("Message", '{"value": 21, "unit": "°X"}')

        page.wait_for("is not a temperature unit")
