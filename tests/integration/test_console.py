"""The console, as a person uses it in a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.service import ALERT_STATE, AlertService, AlertUpdate
from meshtasks.flows.sinks import Sinks
from tests.support.alerting import alert
from tests.support.amqp import drain, queue_depth
from tests.support.browser import Browser
from tests.support.command import variables
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.gateway import Gateway, token_of
from tests.support.topologies import shipped_topology
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TEMPERATURES = "sensors.temperature"
#: Wide and light, narrow and dark.
SHAPES = [(1280, False), (390, True)]
PAGES = ["/", "/flow", "/dead-letters", "/alerts", "/live", "/try"]


@pytest.fixture(scope="module")
def mesh(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A mesh of its own."""
    rabbitmq.create_vhost("console")
    url = rabbitmq.amqp_url("console")
    with connected(url) as connection:
        declare(connection, shipped_topology())
    return Environment(
        config_dir=ROOT / "config",
        broker_url=SecretStr(url),
        management_url=rabbitmq.management_url,
        state_dir=tmp_path_factory.mktemp("state"),
        archive_url=f"file://{tmp_path_factory.mktemp('archive')}",
    )


@pytest.fixture(scope="module")
def console(
    mesh: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("console"), variables(mesh))
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def url(mesh: Environment) -> str:
    return mesh.amqp_url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(console: Gateway, browser: Browser) -> Iterator[Browser]:
    """A browser that is logged in as somebody who may operate the mesh."""
    browser.look(width=1280)
    browser.complaints.clear()
    browser.open(f"{console.url}/login?token={token_of('operator')}")
    browser.wait_for("House")
    yield browser
    assert browser.complaints == []


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
        self, page: Browser, url: str
    ) -> None:
        page.wait_for("wait")  # the mesh is being looked at
        body = b'{"sensor_id": "k1", "location": "kitchen", "value": 71.6, "unit": "F"}'

        def is_seen() -> bool:
            publish(url, reading(body))
            return "kitchen" in page.text() and "22 °C" in page.text()

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


@pytest.mark.usefixtures("chromium")
class TestDeadLetters:
    def test_one_is_edited_and_replayed_to_its_queue(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        add_dead_letters(url, [dead_letter(1)])
        page.open(f"{console.url}/dead-letters")
        page.press("SchemaMismatch")
        page.press("Open ")
        page.wait_for("would be a dead letter")
        page.fill("Body", '{"sensor_id": "attic", "value": 21.5}')
        page.wait_for("This would be stored as 21.5 °C of attic")

        page.press("Replay")

        wait_until(lambda: queue_depth(url, TEMPERATURES) == 1, 60, "the replay")
        (replayed,) = drain(url, TEMPERATURES)
        assert replayed.body == b'{"sensor_id": "attic", "value": 21.5}'
        assert queue_depth(url, QUEUE) == 0

    def test_a_group_is_replayed_alone_once_its_plan_is_confirmed(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        others = [dead_letter(9, "another fault", kind="UnknownUnit")]
        add_dead_letters(url, [*map(dead_letter, range(3)), *others])
        page.open(f"{console.url}/dead-letters")
        page.press("SchemaMismatch")
        page.press("Replay all")
        page.wait_for("3 of 4 would be requeued")

        page.press("Replay")

        wait_until(lambda: queue_depth(url, TEMPERATURES) == 3, 60, "the replay")
        drain(url, TEMPERATURES)
        assert len(drain(url, QUEUE)) == 1

    def test_whoever_may_only_look_cannot_replay(
        self, console: Gateway, browser: Browser, url: str
    ) -> None:
        add_dead_letters(url, [dead_letter(1)])
        browser.open(f"{console.url}/login?token={token_of('visitor')}")
        browser.wait_for("House")
        browser.open(f"{console.url}/dead-letters")
        browser.press("SchemaMismatch")
        browser.wait_for("REPLAY ALL")

        disabled = browser.evaluate(
            "[...document.querySelectorAll('button')].filter(b => b.disabled)"
            ".map(b => b.innerText).join()"
        )

        assert "REPLAY ALL" in disabled
        assert "DROP ALL" in disabled
        drain(url, QUEUE)


@pytest.mark.usefixtures("chromium")
class TestAlerts:
    @pytest.fixture(autouse=True)
    def firing(self, mesh: Environment) -> None:
        with closing(Sinks(Settings(mesh))) as sinks:
            service = AlertService(sinks[ALERT_STATE], sinks.settings.read(ALERTS))
            now = time.time()
            service.receive([AlertUpdate(f"{now}", alert(), now)], now)

    def test_an_alert_is_acknowledged_and_silenced_with_a_preview(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/alerts")
        page.wait_for("attic is damp")

        page.press("Acknowledge")
        page.wait_for("· acknowledged ·")  # on the card that is made anew
        page.press("Silence")
        page.wait_for("Silences 1 now")
        page.press("Silence")

        page.wait_for("by operator")
