"""Pages of the console: flow, archive, SQL, workers, live, try."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from meshtasks.amqp.management import read
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.archive.objects import OBJECTS, archived_objects
from meshtasks.flows.sinks import Sinks
from tests.support.amqp import drain, queue_depth
from tests.support.analytics import archive
from tests.support.archive import NOON
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


def press_day(page: Browser, day: str) -> None:
    script = (
        f"(() => {{ const day = document.querySelector('[data-day=\"{day}\"]'); "
        "if (day) day.click(); return !!day })()"
    )
    wait_until(lambda: page.evaluate(script), 60, f"the day {day}")


class TestArchive:
    @pytest.fixture(autouse=True)
    def archived(self, console_mesh: Environment) -> Iterator[Sinks]:
        """Three temperatures on the 23rd of November 2026, none on the 24th, two on the
        25th."""
        with closing(Sinks(Settings(console_mesh))) as sinks:
            for number, start in ((3, NOON), (2, NOON + 2 * DAY)):
                readings = [{"value": 20 + each} for each in range(number)]
                archive(sinks, ATTIC, *readings, start=start, name=f"d{start}")
            yield sinks

    def test_a_day_without_anything_is_seen_as_a_gap(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/archive")

        page.wait_for("2026-11-23 to 2026-11-25 (UTC): 2 days with 2 objects")

        assert "1 days between have none" in page.text()
        gap = "[...document.querySelectorAll('.gap')].map(e => e.innerText).join()"
        assert page.evaluate(gap) == "24\ngap"

    def test_the_records_of_a_day_are_counted(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/archive")

        press_day(page, "2026-11-23")

        page.wait_for("Monday, 2026-11-23 (UTC)")
        label = "document.querySelector('[data-day=\"2026-11-23\"]').title"
        wait_until(lambda: "1 objects, 3 records" in page.evaluate(label), 60, "them")

    def test_a_damaged_object_is_named_by_verifying_in_the_background(
        self,
        console: Gateway,
        page: Browser,
        archived: Sinks,
        console_mesh: Environment,
    ) -> None:
        (name, *_) = [each.name for each in archived_objects(archived[OBJECTS])]
        path = archived[OBJECTS].path(name)  # type: ignore[attr-defined]  # a directory
        sound = path.read_bytes()
        path.write_bytes(sound[:-8])
        page.open(f"{console.url}/archive")

        page.press("Verify")

        page.wait_for("1 DAMAGED")
        page.open(f"{console.url}/archive")  # it was not the page's own
        page.wait_for(f"{name}: ")
        path.write_bytes(sound)

    def test_a_period_is_replayed_once_its_dry_run_was_seen(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/archive")
        press_day(page, "2026-11-23")
        page.wait_for("Monday, 2026-11-23 (UTC)")
        page.press("Dry run")
        page.wait_for("3 would go to sensors")
        assert queue_depth(console_url, TEMPERATURES) == 0

        page.press("Replay")

        page.wait_for("Replaying is done. 3 records sent.")
        assert len(drain(console_url, TEMPERATURES)) == 3

    def test_whoever_may_only_look_can_neither_verify_nor_replay(
        self, console: Gateway, browser: Browser
    ) -> None:
        browser.open(f"{console.url}/login?token={token_of('visitor')}")
        browser.wait_for("House")
        browser.open(f"{console.url}/archive")
        browser.wait_for("DRY RUN")

        enabled = browser.evaluate(
            "[...document.querySelectorAll('button')].filter(b => !b.disabled)"
            ".map(b => b.innerText).join()"
        )

        assert "VERIFY" not in enabled
        assert "DRY RUN" not in enabled
        assert "RUN" in enabled


class TestSql:
    def test_a_query_gives_a_table_and_a_chart(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/archive")
        page.fill("SQL", "SELECT i, i * i AS square FROM range(12) t(i)")

        page.press("Run")

        page.wait_for("12 rows in")
        assert "121" in page.text()
        assert page.evaluate("!!document.querySelector('.mesh-chart svg.chart')")

    def test_a_query_that_would_write_is_refused(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/archive")
        page.fill("SQL", "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x'")

        page.press("Run")

        page.wait_for("COPY: expected a query that reads")


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

    def test_what_is_wrong_with_an_argument_is_said_beside_the_form(
        self, console: Gateway, page: Browser, console_url: str
    ) -> None:
        page.open(f"{console.url}/workers")
        page.press("silence_alerts")
        page.fill("matchers *", "location=attic")
        page.fill("lasts *", "a while")

        page.press("Start silence_alerts")

        page.wait_for("lasts: expected a time such as 30s")
        assert queue_depth(console_url, "commands") == 0

    def test_a_form_of_somebody_who_may_not_start_it_is_disabled(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/workers")  # operate does not include publish
        page.press("publish")
        page.wait_for("START PUBLISH")

        disabled = page.evaluate(
            "[...document.querySelectorAll('button')].filter(b => b.disabled)"
            ".map(b => b.innerText).join()"
        )

        assert disabled == "START PUBLISH,START INFER"

    def test_other_programs_are_reached_by_links_that_were_configured(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/workers")
        page.wait_for("Grafana")

        link = "[...document.querySelectorAll('a')].find(a => a.innerText == 'Grafana')"
        assert page.evaluate(f"{link}.href") == "http://192.0.2.1:3000/"


def taps(mesh: Environment) -> set[str]:
    """The broker's own names of queues: of everybody who taps."""
    live = read(mesh.amqp_url, mesh.management_url)
    return {queue.name for queue in live.queues if queue.name.startswith("amq.gen")}


class TestLive:
    @pytest.fixture
    def before(
        self, console: Gateway, page: Browser, console_mesh: Environment
    ) -> set[str]:
        """The taps there are while a page without one of its own is open."""
        page.open(f"{console.url}/flow")
        # of sensors, dead letters, retries, results, alerts, events
        wait_until(lambda: len(taps(console_mesh)) >= 6, 60, "the taps of the console")
        return taps(console_mesh)

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
        self,
        console: Gateway,
        page: Browser,
        before: set[str],
        console_mesh: Environment,
    ) -> None:
        page.open(f"{console.url}/live")
        page.wait_for("Listening for sensors.#")
        assert taps(console_mesh) > before

        page.open("about:blank")

        wait_until(lambda: taps(console_mesh) <= before, 120, "the end of the tap")

    def test_its_tap_ends_when_the_network_drops(
        self,
        console: Gateway,
        page: Browser,
        before: set[str],
        console_mesh: Environment,
    ) -> None:
        with Proxy(console.port) as network:
            url = f"http://127.0.0.1:{network.port}"
            page.open(f"{url}/login?token={token_of('operator')}")
            page.wait_for("House")
            page.open(f"{url}/live")
            page.wait_for("Listening for sensors.#")
            assert taps(console_mesh) > before

            network.freeze()  # no word of the end comes through

            wait_until(lambda: taps(console_mesh) <= before, 120, "the end of the tap")
            page.open("about:blank")
        page.complaints.clear()  # of the connection


class TestTry:
    def test_what_to_add_is_said_of_a_topic_that_nobody_takes(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/try")
        page.wait_for("This would be stored as 22 °C of attic")

        page.fill("Routing key, or topic of MQTT", "garden/moisture/bed1")

        page.wait_for("No exchange takes garden.moisture.bed1")
        for line in ("- name: garden.moisture", "kind: moisture", 'unit: "°F"'):
            assert line in page.text()

    def test_a_topic_is_taken_as_its_routing_key(
        self, console: Gateway, page: Browser
    ) -> None:
        page.open(f"{console.url}/try")
        page.wait_for("This would be stored as 22 °C of attic")

        page.fill("Routing key, or topic of MQTT", "sensors/temperature/cellar")

        page.wait_for("This would be stored as 22 °C of cellar")
