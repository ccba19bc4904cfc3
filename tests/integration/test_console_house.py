"""The cards of the console's first page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.gateway.console.watch import MeshWatch
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import BATTERY, Notes, SensorActivity, Stretch
from tests.support.alerting import alert, receive
from tests.support.amqp import drain
from tests.support.browser import Browser
from tests.support.waiting import wait_until

QUEUE = "sensors.temperature"
CARD = (
    "[...document.querySelectorAll('.mesh-card')]"
    ".find(card => card.querySelector('h2').innerText === '{}')"
)

pytestmark = pytest.mark.usefixtures("chromium")


def card(page: Browser, room: str, what: str = "innerText") -> str:
    return str(page.evaluate(f"{CARD.format(room)}?.{what}") or "")


def wait_card(page: Browser, room: str, words: str) -> None:
    wait_until(lambda: words in card(page, room), 300, f"{words} of {room}")


def activity(
    key: str, room: str, kind: str, unit: str, value: float, at: float
) -> SensorActivity:
    """Of a sensor that speaks every minute, the last time at a moment."""
    spoken = (Stretch(at - 600, at, 11),)
    return SensorActivity(key, room, kind, room, unit, value, spoken, at)


@pytest.fixture(scope="module", autouse=True)
def rooms(console_mesh: Environment) -> None:
    """A sauna whose sensor fell silent, and a shed with a nearly empty battery."""
    now = time.time()
    key = "sensors.temperature"
    notes = Notes(
        [
            activity(f"{key}.sauna", "sauna", "temperature", "°C", 80, now - 1200),
            activity(f"{key}.shed", "shed", "temperature", "°C", 4, now),
            activity("metrics.system.shed.device", "shed", BATTERY, "%", 9, now),
        ]
    )
    with closing(History(StateLocation.of(console_mesh))) as history:
        history.write(notes)


@pytest.fixture
def damp(console_mesh: Environment) -> Iterator[None]:
    """The shed is damp."""
    damp = {"title": "<b>damp</b> shed", "labels": {"location": "shed"}}
    receive(console_mesh, alert(**damp))
    yield
    receive(console_mesh, alert(**damp, resolved=True))


def test_the_age_of_a_value_goes_on_and_begins_anew_with_the_next(
    home: Browser, console_url: str
) -> None:
    def publish(value: float) -> None:
        body = json.dumps({"sensor_id": "c1", "location": "cabin", "value": value})
        with closing(Publisher(console_url)) as publisher:
            publisher.publish([Outgoing("sensors", f"{QUEUE}.c1", body.encode())])

    def is_seen() -> bool:
        publish(7)
        return "7 °C" in card(home, "cabin")

    wait_until(is_seen, 300, "the value")

    def is_older() -> bool:
        found = re.search(r"(\d+) (s|min) ago", card(home, "cabin"))
        return found is not None and int(found[1]) > 3

    wait_until(is_older, 300, "its age")
    publish(8)
    wait_card(home, "cabin", "8 °C")
    drain(console_url, QUEUE)


def test_a_low_battery_is_marked_and_not_by_its_colour_alone(
    home: Browser,
) -> None:
    wait_card(home, "shed", "9 % low")


def test_a_sensor_that_is_silent_for_longer_than_usual_is_grey(
    home: Browser,
) -> None:
    wait_card(home, "sauna", " min ago")

    assert "mesh-sensor mesh-dim" in card(home, "sauna", "innerHTML")
    assert "mesh-sensor mesh-dim" not in card(home, "shed", "innerHTML")


@pytest.mark.usefixtures("damp")
def test_a_card_is_red_while_an_alert_of_its_room_goes_on_and_leads_to_it(
    home: Browser, console_mesh: Environment
) -> None:
    wait_card(home, "shed", "warning alert: <b>damp</b> shed")
    assert "mesh-alerting" in card(home, "shed", "className")
    assert "mesh-alerting" not in card(home, "sauna", "className")
    assert 'The warning alert "<b>damp</b> shed" goes on.' in home.text()

    receive(console_mesh, alert())  # of the attic, and later
    home.press("warning alert: <b>damp</b> shed")

    home.wait_for("Notified")
    first = "document.querySelector('.mesh-card h2').innerText"
    wait_until(lambda: home.evaluate(first) == "<b>damp</b> shed", 300, "it first")
    receive(console_mesh, alert(resolved=True))


def test_a_card_is_no_longer_red_when_its_alert_is_over(
    home: Browser, console_mesh: Environment
) -> None:
    hot = {"title": "hot", "labels": {"sensor_id": "sauna"}}
    receive(console_mesh, alert(**hot))
    wait_card(home, "sauna", "warning alert: hot")

    receive(console_mesh, alert(**hot, resolved=True))

    wait_until(lambda: "alert" not in card(home, "sauna"), 300, "its end")
    assert "mesh-alerting" not in card(home, "sauna", "className")


def test_an_alert_of_a_room_without_values_has_a_card(
    home: Browser, console_mesh: Environment
) -> None:
    wet = {"title": "water", "labels": {"location": "cellar", "kind": "leak"}}
    receive(console_mesh, alert(**wet))
    wait_card(home, "cellar", "warning alert: water")
    assert "mesh-alerting" in card(home, "cellar", "className")

    receive(console_mesh, alert(**wet, resolved=True))

    wait_until(lambda: not card(home, "cellar"), 300, "its end")


def test_the_headline_says_that_the_archive_cannot_be_read(
    console_mesh: Environment, tmp_path: Path
) -> None:
    blocked = tmp_path / "archive"
    blocked.symlink_to(blocked)
    env = console_mesh.model_copy(update={"archive_url": f"file://{blocked}"})
    watch = MeshWatch(Settings(env))
    watch.start()
    try:
        watch.want()
        wait_until(
            lambda: any(str(blocked) in line.text for line in watch.headline()),
            300,
            "the archive's fault",
        )
    finally:
        watch.stop()
