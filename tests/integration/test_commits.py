"""A commit whose outcome nobody learns: the connection is lost before it or after it.

What was to be written is given once more, as the broker delivers a message again, and
counts once, wherever the fault was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from meshtasks.config.settings import Settings
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.alerts.service import AlertService, AlertUpdate
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.flows.archive.handler import archive_events
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES, Sinks
from meshtasks.flows.webhooks.log import WebhookLog
from meshtasks.outcome import DONE
from meshtasks.state.database import Database, StateLocation
from tests.support import alerting
from tests.support.archive import batch_of, directory_environment, lines_in
from tests.support.archive import message as archived
from tests.support.handling import Kept, handle, message

QUEUE = "sensors.temperature"
#: No step has more transactions.
MOST = 6


class Faults:
    """Loses the outcome of one transaction of the state.

    Attributes:
        at: how many go well before it; negative, none is lost.
        is_done: it is committed, and the connection lost afterwards.
    """

    at, is_done = -1, False

    def plan(self, at: int, *, is_done: bool) -> None:
        """Lose the outcome of the one after ``at`` others."""
        self.at, self.is_done = at, is_done

    def was_met(self) -> bool:
        """Whether it was; plan none."""
        met, self.at = self.at < 0, -1
        return met


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults, transaction = Faults(), Database.transaction

    @contextmanager
    def unsure(state: Database, *, exclusive: bool = False) -> Iterator[Connection]:
        lost = faults.at == 0
        faults.at -= 1 if faults.at >= 0 else 0
        fault = SinkUnavailable(state.sink, "the connection was lost")
        with transaction(state, exclusive=exclusive) as connection:
            yield connection
            if lost and not faults.is_done:
                raise fault
        if lost:
            state.close()
            raise fault

    monkeypatch.setattr(Database, "transaction", unsure)
    return faults


@pytest.fixture
def settings(state_location: StateLocation, tmp_path: Path) -> Settings:
    """A mesh with that state."""
    url = state_location.url.render_as_string(hide_password=False)
    given = {"state_url": url} if state_location.is_shared else {}
    return Settings(directory_environment(tmp_path, **given))


def test_rules_give_the_alerts_they_would_have_given(
    faults: Faults, settings: Settings, tmp_path: Path
) -> None:
    start = float(int(time.time()) - 3_600)
    bodies = [
        json.dumps(
            [
                {"sensor_id": "s", "value": 20 + 50 * (number % 2), "timestamp": at}
                for at in (start + 10 * number, start + 10 * number + 1)
            ]
        ).encode()
        for number in range(2 * MOST)
    ]

    def alerts_of(settings: Settings, *, is_faulty: bool) -> dict[str | None, bytes]:
        kept: Any = Kept()
        with closing(Sinks(settings)) as sinks:
            sinks[TIMESERIES] = sinks[PUBLISHER] = kept
            for number, body in enumerate(bodies):
                given = message(QUEUE, f"{QUEUE}.s", body, received_at=time.time())
                if is_faulty:
                    faults.plan(number // 2, is_done=bool(number % 2))
                while handle(sinks, given) != [DONE, DONE]:
                    assert faults.was_met()
                faults.was_met()
        alerts: dict[str | None, bytes] = kept.alerts
        return alerts

    expected = alerts_of(
        Settings(directory_environment(tmp_path / "sure")), is_faulty=False
    )

    assert alerts_of(settings, is_faulty=True) == expected
    assert len(expected) == 2 * MOST - 1


def test_each_record_is_archived_once(faults: Faults, settings: Settings) -> None:
    numbers = list(range(2 * MOST))
    met = 0
    with closing(Sinks(settings)) as sinks:
        for number in numbers:
            body = b'{"n":%d}' % number
            batch = batch_of(archived(body, name=f"m{number}"))
            faults.plan(number // 2, is_done=bool(number % 2))
            while archive_events(batch, sinks) != [DONE]:
                assert faults.was_met()
                met += 1
            faults.was_met()
            assert archive_events(batch, sinks) == [DONE]
        lines = lines_in(sinks[OBJECTS])

    assert sorted(line["record"]["n"] for line in lines) == numbers
    assert met >= 4  # what is stored is done, whether or not the journal could note it


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", ["receive", "claim", "resolve"])
def test_a_group_is_notified_once_and_twice_only_if_that_was_not_stored(
    faults: Faults, state_location: StateLocation, step: str, *, is_done: bool
) -> None:
    sent: list[str] = []
    steps = [step]

    def is_at(name: str) -> None:
        if steps == [name]:
            steps.clear()
            faults.plan(0, is_done=is_done)

    with closing(AlertStore(state_location)) as store:
        service = AlertService(store, alerting.policy())
        update = AlertUpdate("r1", alerting.alert(), alerting.NOW)

        def work(now: float) -> None:
            is_at("receive")
            service.receive([update], now)
            if now > alerting.NOW:  # the group waits at first
                is_at("claim")
            while (claimed := service.claim(now)) is not None:
                sent.append(claimed.group.id)
                is_at("resolve")
                service.resolve(claimed, (), now, retry_at=None)

        for seconds in (0.0, 60.0, 200.0, 400.0, 600.0):
            with suppress(SinkUnavailable):
                work(alerting.NOW + seconds)
        assert not steps
        assert faults.was_met()
        with store.tables() as tables:
            firing = [event for event in tables.history(10) if event.kind == "firing"]

    assert len(sent) == (2 if (step, is_done) == ("resolve", False) else 1)
    assert len(firing) == 1


@pytest.mark.parametrize("is_done", [False, True])
def test_a_call_is_noted(
    faults: Faults, state_location: StateLocation, *, is_done: bool
) -> None:
    with closing(WebhookLog(state_location)) as log:
        faults.plan(0, is_done=is_done)
        with pytest.raises(SinkUnavailable):
            log.note({"r": ["w"]}, alerting.NOW)
        log.note({"r": ["w"]}, alerting.NOW)

        assert log.taken(["r"]) == {("r", "w")}
