"""The alerts in the state: what every transaction finds of those before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from meshtasks.flows.alerts import store as alertstore
from meshtasks.flows.alerts.config import AlertPolicy
from meshtasks.flows.alerts.service import AlertService, AlertUpdate
from meshtasks.flows.alerts.state import NotificationState, Silence
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.state.database import StateLocation
from tests.support.alerting import NOW, alert

POLICY = AlertPolicy.model_validate(
    {
        "receivers": ["phone"],
        "routes": [{"name": "all", "receivers": ["phone"], "group_by": ["location"]}],
    }
)
DAY = 86_400.0


@pytest.fixture
def store(state_location: StateLocation) -> Iterator[AlertStore]:
    with closing(AlertStore(state_location)) as opened:
        yield opened


@pytest.fixture
def service(store: AlertStore) -> AlertService:
    return AlertService(store, POLICY)


def rooms(count: int, at: float = NOW) -> list[AlertUpdate]:
    """One alert in each of so many rooms."""
    return [
        AlertUpdate(f"r{number}", alert(labels={"location": f"room {number}"}), at)
        for number in range(count)
    ]


def test_alerts_and_what_was_notified_are_there_the_next_time(
    service: AlertService, store: AlertStore
) -> None:
    service.receive(rooms(2), NOW)
    service.claim(NOW + 1)
    claimed = service.claim(NOW + 600)
    assert claimed is not None
    service.resolve(claimed, [], NOW + 601, retry_at=None)

    with store.tables() as tables:
        assert len(tables.alerts()) == len(tables.firing()) == len(tables.groups()) == 2
        phases = [
            member.notified.phase
            for group in tables.groups()
            for member in tables.members(group.id)
        ]
        kinds = [event.kind for event in tables.history(10)]
    assert sorted(map(str, phases)) == ["None", "firing"]
    assert kinds == ["firing", "firing"]


def test_a_record_that_comes_again_changes_nothing(
    service: AlertService, store: AlertStore
) -> None:
    service.receive(rooms(1), NOW)
    service.receive(rooms(1), NOW + 1)

    with store.tables() as tables:
        assert tables.seen_since(NOW) == ["r0"]
        assert len(tables.history(10)) == 1


def test_the_most_urgent_group_is_claimed_first_and_by_nobody_else(
    service: AlertService,
) -> None:
    at = {"severity": "critical", "labels": {"location": "cellar"}}
    service.receive([*rooms(1), AlertUpdate("c", alert(**at), NOW)], NOW)
    service.claim(NOW + 1)

    first, second, third = (service.claim(NOW + 600) for _ in range(3))

    assert first is not None
    assert second is not None
    assert third is None
    assert first.alerts[0].severity == "critical"


def test_a_silence_begins_and_is_forgotten_a_week_after_its_end(
    store: AlertStore,
) -> None:
    silence = Silence("s1", ("location=attic",), NOW, NOW + 60, "ada", "")
    with store.tables() as tables:
        tables.begin_silence(silence, NOW)
        assert tables.silences() == [silence]

        tables.prune(NOW + 8 * DAY)
        assert tables.silences() == []


def test_a_silence_that_is_begun_again_stays_as_it_was(store: AlertStore) -> None:
    silence = Silence("s1", ("location=attic",), NOW, NOW + 60, "ada", "")
    again = Silence("s1", ("location=attic",), NOW + 30, NOW + 90, "ada", "")
    with store.tables() as tables:
        assert tables.begin_silence(silence, NOW) == silence
        assert tables.begin_silence(again, NOW + 30) == silence

        assert tables.silences() == [silence]
        assert [event.kind for event in tables.history(9)] == ["silenced"]


def test_of_too_many_alerts_the_latest_are_kept_and_the_pending_reported(
    service: AlertService, store: AlertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertstore, "KEEP_ALERTS", 2)
    for number, update in enumerate(rooms(4)):
        service.receive([update], NOW + number)
    with store.tables() as tables:
        oldest = min(tables.alerts(), key=lambda each: each.received_at).fingerprint
        (group_id,) = tables.memberships(oldest)
        tables.put_member(group_id, oldest, NotificationState(pending=True))

        lost = tables.prune(NOW + 10)

        assert [each.fingerprint for each in lost] == [oldest]
        assert len(tables.alerts()) == 2


def test_each_group_is_claimed_by_one_of_several_workers(
    state_location: StateLocation,
) -> None:
    with closing(AlertStore(state_location)) as store:
        service = AlertService(store, POLICY)
        service.receive(rooms(40), NOW)
        service.claim(NOW + 1)

    def claim_all(_number: int) -> list[str]:
        found = []
        with closing(AlertStore(state_location)) as mine:
            worker = AlertService(mine, POLICY)
            while (claimed := worker.claim(NOW + 600)) is not None:
                found.append(claimed.group.id)
                worker.resolve(claimed, [], NOW + 601, retry_at=None)
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(claim_all, range(4)))

    assert Counter(Counter(name for each in results for name in each).values()) == {
        1: 40
    }
