"""The console's page of alerts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshtasks.config.environment import Environment
from tests.support.alerting import alert, receive
from tests.support.browser import Browser
from tests.support.gateway import Gateway

pytestmark = pytest.mark.usefixtures("chromium")


@pytest.fixture(autouse=True)
def firing(console_mesh: Environment) -> Iterator[None]:
    """The attic is damp."""
    receive(console_mesh, alert())
    yield
    receive(console_mesh, alert(resolved=True))


def test_a_card_stays_the_same_while_its_alert_changes(
    console: Gateway, page: Browser, console_mesh: Environment
) -> None:
    page.open(f"{console.url}/alerts")
    page.wait_for("attic is damp")
    page.evaluate("window.button = document.querySelector('.mesh-card button'); 0")

    burns = alert(title="attic burns", severity="critical", source="fire")
    receive(console_mesh, alert(message="<b>90 %</b>"), burns)

    page.wait_for("attic burns")
    page.wait_for("<b>90 %</b>")
    assert page.evaluate("document.contains(window.button)")
    chips = "[...document.querySelectorAll('.mesh-chips li')]"
    assert "location=attic" in page.evaluate(f"{chips}.map(e => e.innerText)")
    assert "1 time in the last 24 hours" in page.text()

    receive(console_mesh, alert(title="attic burns", source="fire", resolved=True))

    page.wait_for("resolved · for")  # and is still to be seen


def test_an_alert_is_acknowledged_and_silenced_with_a_preview(
    console: Gateway, page: Browser
) -> None:
    page.open(f"{console.url}/alerts")
    page.wait_for("attic is damp")

    page.press("Acknowledge: attic is damp")
    page.wait_for("· acknowledged ·")
    page.press("Silence: attic is damp")
    page.wait_for("Silences 1 now")
    page.press("Silence")

    page.wait_for("by operator")
    page.press("End silence")
    page.wait_for("silence ended")


def test_an_alert_is_silenced_whatever_its_labels_say(
    page: Browser, console: Gateway, console_mesh: Environment
) -> None:
    values = ("a,b", 'say "x, y"', '"quoted"', "<b>", "a=b, c!=d", "100 %, ½", "مطبخ")
    labels = {f"name{n}": value for n, value in enumerate(values)}
    odd = {"title": "odd labels", "labels": {**labels, "two words": "left out"}}
    receive(console_mesh, alert(**odd))
    page.open(f"{console.url}/alerts")
    page.press("Silence: odd labels")
    page.wait_for("Silences 1 now")
    page.press("Silence")
    page.wait_for("· silenced ·")

    page.press("End silence")
    page.wait_for("silence ended")
    receive(console_mesh, alert(**odd, resolved=True))
