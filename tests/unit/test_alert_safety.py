"""Whatever an alert says of itself, those beside it are told."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshtasks.cli.alerts import history_lines, table
from meshtasks.errors import InvalidMessage
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import current_alerts
from meshtasks.flows.alerts.service import AlertUpdate
from meshtasks.flows.alerts.state import Silence
from meshtasks.records.alert import Alert, misplaced
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import published_at, utc_of
from meshtasks.worker.decode import Decoder
from tests.support.alerting import CONFIG, NOW, Manager, alert_fields
from tests.support.handling import HANDLERS, message
from tests.support.receiver import Receiver

QUEUE = "alerts.notifications"
DECODER = Decoder(HANDLERS[QUEUE])

#: As publishers write a time, or what they take for one.
MOMENTS = (
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "2026-11-25T13:20:00Z",  # the day after tomorrow
    0,
    -5,
    2**63,
    1e300,
)
#: As AMQP carries one, or as a client's overflow makes it.
PROPERTIES = (0, 1, -1, 2**63, 2**64 - 5, 10**12, 1_795_440_000_000, None)

texts = st.text(min_size=1, max_size=20) | st.sampled_from(
    [" ", "\0", "\n\t", "\x1b[2J", "{{x}}"]
)
alerts = st.fixed_dictionaries(
    {
        "title": texts,
        "message": texts,
        "severity": st.sampled_from(["info", "warning", "critical"]),
        "source": texts,
    },
    optional={
        "labels": st.dictionaries(texts, texts, max_size=3),
        "starts_at": st.sampled_from(MOMENTS)
        | st.datetimes(timezones=st.timezones()).map(str)
        | st.floats(NOW - 1e9, NOW + 1e5),
        "resolved": st.booleans(),
        "fingerprint": texts,
    },
)


def received(content: Any, timestamp: Any = None) -> Envelope:
    return message(QUEUE, "alerts.warning.test", content, timestamp=timestamp)


def valid(envelope: Envelope) -> Alert:
    alert: Alert
    (alert,) = DECODER.decode(envelope.body).records
    for dead in misplaced([alert], [envelope]).values():
        raise InvalidMessage(dead.reason)
    return alert


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_alert_that_began_when_nothing_can_have_begun_is_dead(moment: Any) -> None:
    with pytest.raises(InvalidMessage, match="starts_at"):
        valid(received(alert_fields(starts_at=moment)))


@pytest.mark.parametrize("timestamp", PROPERTIES)
def test_the_message_of_an_alert_is_never_from_the_future(timestamp: Any) -> None:
    time = published_at(received(alert_fields(), timestamp))

    assert 946_684_800 <= time <= NOW


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1e300, 2.0**63, -1])
def test_every_number_is_a_moment_that_can_be_shown(seconds: float) -> None:
    assert 1970 <= utc_of(seconds).astimezone().year <= 9999


@pytest.fixture
def manager(tmp_path: Path, receiver: Receiver) -> Any:
    url = f"json://127.0.0.1:{receiver.port}/push"
    one_group = {"defaults": {**CONFIG["defaults"], "group_by": []}}
    manager = Manager(tmp_path, {"phone": url}, one_group)
    yield manager
    manager.close()


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(alerts, st.sampled_from(PROPERTIES)), min_size=20))
def test_every_valid_alert_is_listed_and_notified_and_fails_no_other(
    manager: Manager, contents: list[tuple[Any, Any]]
) -> None:
    fire = alert_fields(source=f"fire{manager.now}", starts_at=manager.now)
    updates = []
    for number, (content, timestamp) in enumerate([*contents, (fire, None)]):
        envelope = replace(received(content, timestamp), received_at=manager.now)
        with suppress(InvalidMessage):
            alert = valid(envelope)
            name = f"{manager.now}/{number}"
            updates.append(AlertUpdate(name, alert, published_at(envelope)))

    manager.service.receive(updates, manager.now)
    for _ in range(2):
        manager.now += 300
        manager.notify()

    with manager.tables() as tables:
        policy = manager.sinks.settings.read(ALERTS)
        shown = current_alerts(tables, policy, manager.now, every=True)
        lines = [
            *table(shown, policy.zone, manager.now),
            *history_lines(tables.history(10), policy.zone),
        ]
    json.dumps([each.as_json() for each in shown])
    assert len(lines) > len(shown)
    told = {each.alert.source: each.notified for each in shown}
    assert told[fire["source"]] == "firing"
    assert {each.notified for each in shown if each.alert.firing} == {"firing"}


def test_a_clock_that_was_put_back_leaves_no_group_quiet_until_tomorrow(
    manager: Manager,
) -> None:
    manager.now = NOW + 86_400
    manager.update(source="early")
    manager.at(86_400 + 40)
    manager.at(0)

    manager.update(source="early", resolved=True)
    manager.update(source="late", severity="critical")
    manager.at(40, 400)

    with manager.tables() as tables:
        policy = manager.sinks.settings.read(ALERTS)
        shown = current_alerts(tables, policy, manager.now, every=True)
    told = {each.alert.source: each.notified for each in shown}
    assert told == {"early": "-", "late": "firing"}  # the end of "early" was told


def test_a_silence_that_a_clock_ahead_began_begins_when_it_is_put_right(
    manager: Manager,
) -> None:
    begun = NOW + 86_400
    silence = Silence("aa", ("source=dull",), begun, begun + 600, "me", "")
    with manager.tables() as tables:
        tables.put_silence(silence)

    manager.at(0)

    with manager.tables() as tables:
        (kept,) = tables.silences()
    assert (kept.starts_at, kept.ends_at) == (NOW, NOW + 600)


def test_an_end_counts_though_the_beginning_is_by_a_clock_ahead(
    manager: Manager,
) -> None:
    manager.update(starts_at=NOW + 3_600)
    manager.update(starts_at=NOW, resolved=True)

    with manager.tables() as tables:
        assert tables.firing() == []
