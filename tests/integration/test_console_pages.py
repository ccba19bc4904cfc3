"""Pages of the console in a browser: flow, workers, live."""

from __future__ import annotations

import json
from contextlib import closing
from urllib.parse import quote

import pytest

from meshtasks.amqp.management import read
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from tests.support.amqp import drain
from tests.support.browser import Browser
from tests.support.gateway import Gateway, token_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

DAY = 86_400.0
TEMPERATURES = "sensors.temperature"
ATTIC = f"{TEMPERATURES}.attic"

pytestmark = pytest.mark.usefixtures("chromium")


def publish(url: str, *messages: Outgoing) -> None:
    with closing(Publisher(url)) as publisher:
        publisher.publish(messages)


class TestFlow:
    def test_the_picture_shows_exchanges_queues_and_what_waits(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/flow")
        page.wait_for("Queues")
        texts = "[...document.querySelectorAll('.mesh-flow text')]"
        texts += ".map(e => e.textContent)"
        page.evaluate("document.querySelector('.mesh-flow').dataset.mark = 'the same'")
        publish(console_url, Outgoing("sensors", ATTIC, b'{"value": 1}'))

        wait_until(lambda: "nobody consumes it" in page.evaluate(texts), 60, "it")

        assert {"amq.topic", "sensors", "sensors.temperature"} <= {
            *page.evaluate(texts)
        }
        mark = "document.querySelector('.mesh-flow').dataset.mark"
        assert page.evaluate(mark) == "the same"  # it was not made anew
        drain(console_url, TEMPERATURES)

    def test_in_a_narrow_window_it_is_a_list_and_nothing_scrolls_sideways(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.look(width=390)
        page.open(f"{console.url}/flow")
        page.wait_for("sensors.temperature")
        publish(console_url, Outgoing("sensors", ATTIC, b'{"value": 1}'))

        page.wait_for("nobody consumes it")

        wide = "[...document.querySelectorAll('.mesh-scroll')]"
        wide += ".filter(e => e.scrollWidth > e.clientWidth)"
        assert page.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 200))") == []
        drain(console_url, TEMPERATURES)


class TestWorkers:
    def test_a_command_is_started_by_a_form_of_its_arguments(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/workers")
        page.press("silence_alerts")
        page.fill("matchers *", "location=attic")
        page.fill("lasts *", "2h")

        page.press("Start silence_alerts")

        page.wait_for("silence_alerts waits for a worker")
        (call,) = drain(console_url, "commands")
        (_, arguments, _) = json.loads(call.body)
        assert arguments["matchers"] == ["location=attic"]
        assert (arguments["lasts"], arguments["created_by"]) == ("2h", "operator")

    def test_other_programs_are_reached_by_links_that_were_configured(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/workers")
        page.wait_for("Grafana")

        link = "[...document.querySelectorAll('a')].find(a => a.innerText == 'Grafana')"
        assert page.evaluate(f"{link}.href") == "http://192.0.2.1:3000/"


def is_tapped(mesh: Environment, pattern: str) -> bool:
    """Whether a queue is bound with that pattern."""
    live = read(mesh.amqp_url, mesh.management_url)
    return pattern in {binding.routing_key for binding in live.bindings}


class TestLive:
    def test_a_message_is_a_tree_that_can_be_opened(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/live")
        page.wait_for("Listening for sensors.#")
        body = b'{"value": 1, "deep": {"inner": ["<b>bold</b>"]}}'
        publish(console_url, Outgoing("sensors", ATTIC, body))
        page.wait_for("1 passed")

        page.evaluate("document.querySelector('#live-messages summary').click()")

        page.wait_for("inner")
        assert (
            page.evaluate("document.querySelectorAll('#live-messages b').length") == 0
        )
        drain(console_url, TEMPERATURES)

    def test_what_passes_while_it_pauses_is_shown_afterwards(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/live")
        page.wait_for("Listening for sensors.#")
        page.evaluate("document.querySelector('.q-toggle').click()")
        publish(console_url, Outgoing("sensors", ATTIC, b'{"value": 4711}'))
        page.wait_for("1 passed")
        assert "4711" not in page.text()

        page.evaluate("document.querySelector('.q-toggle').click()")

        page.wait_for("4711")
        drain(console_url, TEMPERATURES)

    def test_a_pattern_that_is_none_is_explained(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/live?pattern=sensors.temp*")

        page.wait_for("temp* is no wildcard: * stands for one whole word")

    def test_its_tap_ends_when_the_tab_is_closed(
        self, console: Gateway, page: Browser, console_mesh: Environment
    ) -> None:
        pattern = "sensors.closed.#"
        page.open(f"{console.url}/live?pattern={quote(pattern)}")
        page.wait_for(f"Listening for {pattern}")
        assert is_tapped(console_mesh, pattern)

        page.open("about:blank")

        wait_until(lambda: not is_tapped(console_mesh, pattern), 300, "its end")

    def test_its_tap_ends_when_the_network_drops(
        self, console: Gateway, page: Browser, console_mesh: Environment
    ) -> None:
        pattern = "sensors.dropped.#"
        with Proxy(console.port) as network:
            url = f"http://127.0.0.1:{network.port}"
            page.open(f"{url}/login?token={token_of('operator')}")
            page.wait_for("House")
            page.open(f"{url}/live?pattern={quote(pattern)}")
            page.wait_for(f"Listening for {pattern}")
            assert is_tapped(console_mesh, pattern)

            network.freeze()  # no word of the end comes through

            wait_until(lambda: not is_tapped(console_mesh, pattern), 300, "its end")
            page.open("about:blank")
        page.complaints.clear()  # of the connection
