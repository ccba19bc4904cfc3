"""The handlers of the alerts queues, with real broker and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.handler import NOTIFYING, receive_critical, receive_others
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Retry
from tests.support.alerting import alert_fields, batch_of
from tests.support.amqp import drain
from tests.support.archive import lines_sent

CRITICAL = alert_fields(severity="critical", source="rules.fire")
WARNING = alert_fields()


@pytest.fixture
def sinks(mesh_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sinks]:
    """Sinks of a mesh whose topology is declared."""
    for name, value in mesh_env.items():
        monkeypatch.setenv(name, value)
    sinks = Sinks(load_settings())
    yield sinks
    sinks.close()


Known = Callable[[], dict[str, tuple[str, bool]]]


@pytest.fixture
def known(sinks: Sinks) -> Known:
    """Severity of each alert by source, and whether it fires."""

    def known() -> dict[str, tuple[str, bool]]:
        with sinks[ALERT_STATE].tables() as tables:
            return {
                each.source: (each.severity, each.firing) for each in tables.alerts()
            }

    return known


def test_each_queue_acts_on_its_own_severities(sinks: Sinks, known: Known) -> None:
    batch = batch_of(CRITICAL, WARNING)

    assert receive_critical(batch, sinks) == [DONE, DONE]
    assert known() == {"rules.fire": ("critical", True)}

    assert receive_others(batch, sinks) == [DONE, DONE]
    assert known() == {
        "rules.fire": ("critical", True),
        "rules.damp": ("warning", True),
    }


def test_an_end_of_another_severity_ends_the_alert(sinks: Sinks, known: Known) -> None:
    receive_critical(batch_of(CRITICAL), sinks)
    receive_others(batch_of({**CRITICAL, "severity": "info", "resolved": True}), sinks)

    assert known() == {"rules.fire": ("critical", False)}


@pytest.mark.parametrize("timestamp", [None, 1_795_440_000.0])
def test_a_beginning_that_is_delivered_again_after_the_end_changes_nothing(
    sinks: Sinks, known: Known, timestamp: float | None
) -> None:
    first = batch_of(WARNING, timestamp=timestamp)
    receive_others(first, sinks)
    receive_others(batch_of({**WARNING, "resolved": True}), sinks)
    receive_others(first, sinks)

    assert known() == {"rules.damp": ("warning", False)}


def test_messages_that_all_have_the_same_id_all_count(
    sinks: Sinks, known: Known
) -> None:
    for minute, resolved in enumerate((False, True, False)):
        news = batch_of(
            {**WARNING, "resolved": resolved}, timestamp=1_795_440_000.0 + 60 * minute
        )
        envelope = replace(news.envelopes[0], message_id="always")
        news.envelopes[0] = envelope
        receive_others(news, sinks)

    assert known() == {"rules.damp": ("warning", True)}


def test_all_records_of_an_array_are_taken_in(sinks: Sinks, known: Known) -> None:
    array = [alert_fields(source=f"s{number}") for number in range(3)]

    assert receive_others(batch_of(array), sinks) == [DONE] * 3
    assert known().keys() == {"s0", "s1", "s2"}


def test_alerts_are_archived_by_the_queue_that_acts_on_them(
    sinks: Sinks, mesh_url: str
) -> None:
    batch = batch_of(CRITICAL, WARNING)
    receive_critical(batch, sinks)
    receive_others(batch, sinks)

    lines = [
        line["record"]
        for message in drain(mesh_url, "archive.events")
        for line in lines_sent(message.body)
    ]
    assert lines == [CRITICAL, WARNING]


def test_without_its_state_the_alerts_it_acts_on_wait(
    sinks: Sinks, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "mesh.db").write_bytes(b"no database" * 1_000)

    critical, warning = receive_critical(batch_of(CRITICAL, WARNING), sinks)

    assert isinstance(critical, Retry)
    assert critical.sink == "alert_state"
    assert warning is DONE


@pytest.mark.parametrize("broken", [{}, {"MESH_RECEIVERS__PHONE": "nonsense"}])
def test_a_bad_receiver_is_refused_at_start(
    mesh_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    for name, value in (mesh_env | broken).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()

    if broken:
        with pytest.raises(
            ConfigError, match="MESH_RECEIVERS__PHONE: expected an Apprise URL"
        ):
            NOTIFYING.check(settings)
    else:
        NOTIFYING.check(settings)
