"""The console's page of a sensor, and the headline and ledger of the first page."""

from __future__ import annotations

import time
from contextlib import closing
from http import HTTPStatus

import pytest

from meshtasks.config.environment import Environment
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import (
    BAD_UNIT,
    Count,
    Incident,
    Notes,
    SensorActivity,
    Stretch,
    bucket_of,
)
from tests.support.amqp import drain, queue_depth
from tests.support.browser import Browser
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

TEMPERATURES = "sensors.temperature"
KEY = "sensors.temperature.pantry"


def note(mesh: Environment, notes: Notes) -> None:
    with closing(History(StateLocation.of(mesh))) as history:
        history.write(notes)


@pytest.fixture(scope="module")
def holed(console_mesh: Environment) -> None:
    """A sensor with a hole of an hour, in which one reading was refused."""
    now = time.time()
    stretches = (
        Stretch(now - 9000, now - 5400, 61),
        Stretch(now - 1800, now - 5, 31),
    )
    seen = SensorActivity(
        KEY, "pantry", "temperature", "pantry", "°C", 7.5, stretches, now
    )
    notes = Notes([seen])
    refused = 'unit "°X" is not a temperature unit'
    at = now - 3600
    notes.add_incident(
        Incident(KEY, "pantry", BAD_UNIT, at, at, 3, refused, '{"unit": "°X"}')
    )
    notes.add_count(bucket_of(now), "sensors.temperature", Count(1_204_300, 31))
    note(console_mesh, notes)


@pytest.mark.usefixtures("chromium", "holed")
def test_the_reason_of_a_hole_is_found_from_the_first_page(
    console: Gateway, page: Browser
) -> None:
    page.open(f"{console.url}/")
    page.wait_for("pantry")
    page.wait_for("7.5 °C")
    page.wait_for("today 1,204,331 in = 1,204,300 stored + 31 dead + 0 waiting")

    page.evaluate(
        "[...document.querySelectorAll('.mesh-card')]"
        ".find(card => card.innerText.includes('pantry')).querySelector('a').click()"
    )

    page.wait_for("sensors.temperature.pantry sends: its last reading, 7.5 °C, is of")
    page.wait_for("3 readings were refused at ")
    page.wait_for('unit "°X" is not a temperature unit')
    assert page.evaluate("document.querySelectorAll('.mesh-curve rect.hole').length")


@pytest.mark.usefixtures("chromium", "holed")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_of_a_sensor_fits_its_window(
    console: Gateway, page: Browser, width: int, *, dark: bool
) -> None:
    page.look(width=width, dark=dark)
    page.open(f"{console.url}/sensor/{KEY}")
    page.wait_for("3 readings were refused at ")

    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.usefixtures("chromium")
def test_a_sensor_that_nobody_knows_is_answered_with_names_like_it(
    console: Gateway, page: Browser, holed: None
) -> None:
    page.open(f"{console.url}/sensor/sensors.temprature.pantry")
    page.wait_for("No queue takes messages with the routing key")

    page.press(KEY)

    page.wait_for("sends: its last reading")


@pytest.mark.usefixtures("chromium")
def test_what_the_gateway_refuses_is_said_on_the_first_page(
    console: Gateway, home: Browser
) -> None:
    answer = console.post(
        "/v1/events/sensors/sensors.temperature.door", {"value": "21,5"}
    )

    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    home.wait_for("1 reading of door was refused (text value)")
    home.press("1 reading of door was refused")
    home.wait_for("the gateway answered 422")


@pytest.mark.usefixtures("chromium")
def test_its_dead_letter_is_edited_and_replayed_on_its_page(
    console: Gateway, page: Browser, console_url: str
) -> None:
    add_dead_letters(
        console_url, [dead_letter(1), dead_letter(2, queue="metrics.system")]
    )
    page.open(f"{console.url}/sensor/sensors.temperature.attic?id=attic")
    page.press("Look for its dead letters")
    page.wait_for("1 found.")
    page.press("Open ")
    page.fill("Body", '{"sensor_id": "attic", "value": 21.5}')
    page.wait_for("This would be stored as 21.5 °C of attic")

    page.press("Replay")

    wait_until(lambda: queue_depth(console_url, TEMPERATURES) == 1, 60, "the replay")
    (replayed,) = drain(console_url, TEMPERATURES)
    assert replayed.body == b'{"sensor_id": "attic", "value": 21.5}'
    page.wait_for("None waits.")
    drain(console_url, QUEUE)


@pytest.mark.usefixtures("chromium", "holed")
def test_its_alerts_are_silenced_with_a_preview(
    console: Gateway, page: Browser
) -> None:
    page.open(f"{console.url}/sensor/{KEY}")
    page.wait_for("Rules that watch it")
    page.wait_for("overheating")
    page.press("Silence its alerts")
    page.wait_for("Silences 0 now")

    page.press("Silence")

    page.wait_for("Of the rules that watch it overheating")
