"""`meshtasks report`: the page, as people see it in a browser."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.dead_letters import DEAD_LETTER_ROUTING_KEY
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE
from meshtasks.cli.report import dead_letters_in
from meshtasks.config.environment import Environment
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.dead_letters import WaitingDeadLetters
from tests.support.amqp import publish_raw, queue_depth
from tests.support.analytics import archive
from tests.support.archive import directory_environment
from tests.support.chromium import WORST_CONTRAST, complaints, look
from tests.support.command import Command

HOUR_SECONDS = 3600
QUEUE = "dead.letter.queue"

NASTY = "<script>document.title = 'owned'</script>"

#: What the tests ask of the page, in one look.
FINDINGS = f"""{WORST_CONTRAST}
const all = (query, get) => [...document.querySelectorAll(query)].map(get);
return {{
  title: document.title,
  headings: all('h1, h2', e => e.textContent),
  rooms: all('.rooms h3', e => e.textContent),
  charts: all('svg', e => e.getAttribute('aria-label')),
  flat: all('svg', e => e.getBoundingClientRect()).filter(r => r.height < 50).length,
  lines: all('svg .line path', e => e.getTotalLength()),
  alerts: all('.timeline tbody tr', e => [...e.cells].map(c => c.innerText.trim())),
  spells: all('.track span', e => [e.getBoundingClientRect().width, e.title]),
  text: document.body.innerText,
  spill: document.documentElement.scrollWidth - innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
  contrast: worst,
}};"""


@pytest.fixture
def environment(mesh_url: str, tmp_path: Path) -> Environment:
    """A mesh whose archive is a directory."""
    return directory_environment(tmp_path, broker_url=mesh_url)


def dead_letter(url: str, reason: str, routing_key: str, times: int = 1) -> None:
    """Put messages on the dead-letter queue, as a worker would."""
    publish_raw(
        url,
        DEAD_LETTER_EXCHANGE,
        DEAD_LETTER_ROUTING_KEY,
        *[b"{}"] * times,
        headers={
            "x-mesh-reason": reason,
            "x-mesh-error-type": "SchemaMismatch",
            "x-mesh-routing-key": routing_key,
        },
    )


def alert(title: str, severity: str, starts_at: float, **changes: Any) -> Any:
    """An alert as the mesh publishes it."""
    stamp = datetime.fromtimestamp(starts_at, UTC).isoformat()
    return {
        "title": title,
        "message": f"{title}, by the rule",
        "severity": severity,
        "source": "rules.test",
        "labels": {"about": title},
        "starts_at": stamp,
        **changes,
    }


def furnish(sinks: Sinks, now: float) -> None:
    """Two days of a house."""
    start = now - 48 * HOUR_SECONDS
    for room, warmth in (("living_room", 68), (NASTY, 50)):
        readings = [
            {"value": warmth + n % 9, "unit": "°F", "location": room, "sensor_id": "s"}
            for n in range(24)
        ]
        damp = [{"value": 40 + n % 7, "location": room} for n in range(24)]
        where = {"start": start, "seconds_apart": 7200.0, "name": room}
        archive(sinks, "sensors.temperature.s", *readings, **where)
        archive(sinks, "sensors.humidity.s", *damp, **where)
    hot = start + 10 * HOUR_SECONDS
    alerts = [
        alert("Attic is hot", "warning", hot),
        alert("Attic is hot", "warning", hot, resolved=True),
    ]
    archive(sinks, "alerts.warning.x", *alerts, start=hot, seconds_apart=7200, name="a")
    cold = alert(f"Freezer {NASTY}", "critical", now - HOUR_SECONDS)
    archive(sinks, "alerts.critical.x", cold, start=now - HOUR_SECONDS, name="b")


@pytest.mark.usefixtures("chromium")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_the_page_shows_the_house_in_light_and_dark_and_on_a_phone(
    sinks: Sinks,
    environment: Environment,
    meshtasks: Command,
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    furnish(sinks, time.time())
    url = environment.amqp_url
    dead_letter(url, 'value: 120 "%" cannot be', "sensors.humidity.bath", 2)
    dead_letter(url, 'value: 133 "%" cannot be', "sensors.humidity.attic")
    dead_letter(url, f"the body is not JSON: {NASTY}", "sensors.humidity.attic")
    page = tmp_path / "house.html"

    result = meshtasks("report", "--out", page, "--days", 2)

    assert result.exit_code == 0
    archive, broker = result.stderr.splitlines()  # and nothing else
    assert archive.endswith("(MESH_ARCHIVE_URL)")
    assert broker.endswith("(MESH_BROKER_URL)")
    found = look(page, FINDINGS, width=width, dark=dark)
    assert found["headings"] == [
        "Mesh report",
        "Rooms",
        "Alerts",
        "Dead letters by reason",
        "Archive",
    ]
    assert found["rooms"] == [NASTY, "living room"]
    assert found["title"].startswith("Mesh report")
    assert found["charts"][2].startswith("Temperature, living room. from 20")
    assert len(found["charts"]) == 5
    assert found["flat"] == 0
    assert all(length > 100 for length in found["lines"])
    first, second = found["alerts"]
    assert first[:2] == [
        "▲ critical",
        f"Freezer {NASTY}\nFreezer {NASTY}, by the rule",
    ]
    assert first[4].startswith("since")
    assert second[0] == "◆ warning"
    assert second[4].startswith("over since")
    assert [wide >= 4 for wide, _ in found["spells"]] == [True, True]
    assert 'value: 133 "%" cannot be' in found["text"]
    assert f"the body is not JSON: {NASTY}" in found["text"]
    assert "Readings\n92\n" in found["text"]  # the first of each are too old
    assert found["spill"] <= 0, "the page is wider than the window"
    assert (found["background"] == "rgb(252, 252, 251)") is not dark
    assert found["contrast"][0] >= 4.5, found["contrast"]
    # looked at, and left there
    assert queue_depth(url, QUEUE) == 4


@pytest.mark.usefixtures("chromium")
def test_the_page_uses_no_network_and_has_no_faults(
    sinks: Sinks, meshtasks: Command, tmp_path: Path
) -> None:
    furnish(sinks, time.time())
    page = tmp_path / "house.html"
    meshtasks("report", "--out", page)

    assert complaints(page) == []
    html = page.read_text()
    assert "<script" not in html
    assert not [word for word in ("http://", "https://", "url(") if word in html]


def test_an_empty_house_has_a_page_too(meshtasks: Command, tmp_path: Path) -> None:
    page = tmp_path / "house.html"

    assert meshtasks("report", "--out", page).exit_code == 0

    html = page.read_text()
    assert "There are no readings of this period" in html
    assert "No alert in this period" in html
    assert "The dead-letter queue is empty" in html
    assert "The archive is empty" in html


def test_without_a_broker_the_page_shows_why_and_the_rest(
    sinks: Sinks,
    meshtasks: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    reading = {"value": 20, "location": "attic"}
    archive(sinks, "sensors.temperature.s", reading, start=time.time() - 60)
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://user:secret@127.0.0.1:1//")
    page = tmp_path / "house.html"

    assert meshtasks("report", "--out", page).exit_code == 0

    html = page.read_text()
    assert "RabbitMQ at 127.0.0.1:1 cannot be reached" in html
    assert "secret" not in html
    assert "Temperature, attic" in html


def test_a_page_that_cannot_be_written_is_named(
    meshtasks: Command, tmp_path: Path
) -> None:
    page = tmp_path / "nowhere" / "house.html"
    result = meshtasks("report", "--out", page)
    assert result.exit_code == 73
    assert str(page) in result.stderr


def test_a_silent_sensor_is_marked(
    sinks: Sinks, meshtasks: Command, tmp_path: Path
) -> None:
    readings = [{"value": 20, "location": room} for room in ("attic", "attic")]
    start = time.time() - 20 * HOUR_SECONDS
    archive(sinks, "sensors.temperature.s", *readings, start=start)
    page = tmp_path / "house.html"

    meshtasks("report", "--out", page, "--days", 1)

    assert '<strong class="warning">silent</strong> since' in page.read_text()


# Dead letters


def test_dead_letters_that_died_of_the_same_are_counted_together(
    mesh_url: str,
) -> None:
    dead_letter(mesh_url, 'unit "furlong" is not known', "sensors.temperature.a", 2)
    dead_letter(
        mesh_url, "timestamp 2019-02-30T25:00:00Z is no time", "sensors.temperature.b"
    )
    dead_letter(mesh_url, 'unit "ell" is not known', "sensors.temperature.c")

    found = dead_letters_in(mesh_url, QUEUE)

    assert isinstance(found, WaitingDeadLetters)
    assert found.total == 4
    causes = [each.found for each in found.causes]
    assert [(each.count, each.example.reason) for each in causes] == [
        (3, 'unit "ell" is not known'),
        (1, "timestamp 2019-02-30T25:00:00Z is no time"),
    ]
    assert causes[0].routing_keys == [
        "sensors.temperature.a",
        "sensors.temperature.c",
    ]


def test_a_message_that_no_binding_matched_is_a_dead_letter_too(mesh_url: str) -> None:
    publish_raw(mesh_url, "sensors", "sensors.nobody.asked", b"{}")
    found = dead_letters_in(mesh_url, QUEUE)
    assert isinstance(found, WaitingDeadLetters)
    ((cause, _),) = found.causes
    assert (cause.cause.kind, cause.routing_keys) == (
        "Unroutable",
        ["sensors.nobody.asked"],
    )


def test_without_a_queue_the_page_is_told_why_nothing_is_known(amqp_url: str) -> None:
    assert "no such queue" in str(dead_letters_in(amqp_url, QUEUE))
