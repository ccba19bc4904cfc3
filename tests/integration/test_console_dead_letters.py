"""The console's page of dead letters."""

from __future__ import annotations

import gzip
import json
from http import HTTPStatus

import pytest
import requests

from tests.support.amqp import drain, queue_depth, take
from tests.support.browser import Browser
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter, dying_again
from tests.support.gateway import Gateway, token_of
from tests.support.waiting import wait_until

TEMPERATURES = "sensors.temperature"


@pytest.fixture
def url(console_url: str) -> str:
    return console_url


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
        assert len(take(url, QUEUE, 1)) == 1

    def test_those_that_would_succeed_are_replayed_with_their_count_before(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        good = dead_letter(1, body=b'{"value": 20}')
        add_dead_letters(url, [good, dead_letter(2)])
        page.open(f"{console.url}/dead-letters")
        page.press("Replay what would succeed now")
        page.wait_for("1 kept: it would fail again")

        page.press("Replay")

        page.wait_for("1 of 2 requeued")
        assert [each.body for each in drain(url, TEMPERATURES)] == [good.body]
        take(url, QUEUE, 1)

    def test_what_fails_again_is_said(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        add_dead_letters(url, [dead_letter(1)])
        page.open(f"{console.url}/dead-letters")
        page.press("SchemaMismatch")
        with dying_again(url, TEMPERATURES):
            page.press("Replay all")
            page.wait_for("1 of 1 would be requeued")
            page.press("Replay")

            page.wait_for("1 failed again: SchemaMismatch: still no number")
        take(url, QUEUE, 1)

    def test_bodies_of_every_kind_are_shown_and_run_nothing(
        self, console: Gateway, page: Browser, url: str
    ) -> None:
        harm = '<img src=x onerror="document.title=`harm`"><script>x</script>{{7*7}}'
        bodies = {
            "utf": (b'{"value": "\xff\xfe"}', "\\xff"),
            "packed": (gzip.compress(b'{"value": 1}'), "compressed (gzip)"),
            "deep": (b"[" * 5_000, "[[[[["),
            "large": (b'{"value": "%s"}' % (b"x" * 999_987), "1,000,000 bytes"),
            "markup": (json.dumps([{"value": harm}, 2]).encode(), "onerror"),
        }
        add_dead_letters(
            url,
            [
                dead_letter(n, f"{harm} {word}", kind=harm, body=body)
                for n, (word, (body, _)) in enumerate(bodies.items(), start=1)
            ],
        )
        page.open(f"{console.url}/dead-letters")
        page.wait_for("5 dead letters of 5 causes")
        for word, (_, expected) in bodies.items():
            page.press(f"</script>{{{{7*7}}}} {word}")
            page.press("Open ")
            page.wait_for("This would be a dead letter")

            assert expected in page.shown(), page.shown()

            page.press("Close")
            wait_until(lambda: "would be" not in page.text(), 60, "the dialog's end")
            page.press(f"</script>{{{{7*7}}}} {word}")
            wait_until(lambda: "DROP ALL" not in page.text(), 60, "the card's end")
        assert page.evaluate("document.title") == "Dead letters · meshtasks"
        assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
        take(url, QUEUE, 5)

    def test_they_are_downloaded_as_the_command_writes_them(
        self, console: Gateway, url: str
    ) -> None:
        add_dead_letters(url, [*map(dead_letter, range(3)), dead_letter(4, "odd")])
        address = f"{console.url}/dead-letters/export"
        nobody = requests.get(address, timeout=60, allow_redirects=False)
        with requests.Session() as visitor:
            token = token_of("visitor")
            visitor.get(f"{console.url}/login", params={"token": token}, timeout=60)

            whole = visitor.get(address, timeout=60)
            cause = {"kind": "SchemaMismatch", "reason": "odd"}
            one = visitor.get(address, params=cause, timeout=60)

        assert nobody.status_code == HTTPStatus.SEE_OTHER
        assert "attachment" in whole.headers["Content-Disposition"]
        assert len(whole.content.splitlines()) == 4
        (line,) = one.content.splitlines()
        assert json.loads(line)["headers"]["x-mesh-reason"] == "odd"
        assert len(take(url, QUEUE, 4)) == 4

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
        take(url, QUEUE, 1)
