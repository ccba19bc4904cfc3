"""The alert manager from news to phone, with a clock that is moved by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.service import AlertService, AlertUpdate
from meshtasks.flows.alerts.state import Silence
from meshtasks.flows.alerts.store import AlertStore, AlertTables
from meshtasks.records.alert import Alert
from meshtasks.state.database import StateLocation
from tests.support.alerting import NOW, Manager
from tests.support.ntfy import Ntfy
from tests.support.receiver import Answer, Receiver

HOUR = 3_600.0
ROOT = Path(__file__).parents[2]

NewManager = Callable[..., Manager]


@pytest.fixture
def new_manager(ntfy: Ntfy, topic: str, tmp_path: Path) -> Iterator[NewManager]:
    """Makes managers on one and the same state; ``phone`` is the test's topic."""
    with ExitStack() as opened:

        def make(receivers: dict[str, str] | None = None, **config: Any) -> Manager:
            urls = (
                {"phone": ntfy.receiver_url(topic)} if receivers is None else receivers
            )
            manager = Manager(tmp_path, urls, config)
            opened.callback(manager.close)
            return manager

        yield make


@pytest.fixture
def manager(new_manager: NewManager) -> Manager:
    return new_manager()


@pytest.fixture
def titles(ntfy: Ntfy, topic: str) -> Callable[[], list[str]]:
    """Titles of everything that was sent to the phone."""
    return lambda: [message["title"] for message in ntfy.sent(topic)]


Titles = Callable[[], list[str]]

DAMP = "attic is damp"
DRY = "Resolved: attic is damp"


def test_a_thousand_alerts_are_taken_in_without_looking_at_all_groups_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at_all: list[str] = []
    for name in ("wake_all", "firing"):
        original = getattr(AlertTables, name)

        def counted(*arguments: Any, name: str = name, original: Any = original) -> Any:
            looked_at_all.append(name)
            return original(*arguments)

        monkeypatch.setattr(AlertTables, name, counted)
    policy = Settings(Environment(config_dir=ROOT / "config")).read(ALERTS)
    store = AlertStore(StateLocation.in_directory(tmp_path))
    alerts = [
        Alert(title="t", message="m", severity="critical", source=f"s{number}")
        for number in range(1_000)
    ]

    updates = [AlertUpdate(alert.source, alert, NOW) for alert in alerts]
    service = AlertService(store, policy)
    service.receive(updates, NOW)
    assert service.claim(NOW)

    assert looked_at_all == ["wake_all"]
    store.close()


class TestTelling:
    def test_an_alert_is_notified_after_the_group_wait_and_once(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(0, 29)
        assert titles() == []

        manager.at(30, 31, 300, 3_000)
        assert titles() == [DAMP]

    def test_updates_that_repeat_what_is_known_notify_nothing(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(30)
        manager.now += 600
        manager.update()
        manager.at(700)

        assert titles() == [DAMP]

    def test_its_end_is_notified_and_replaces_it_on_the_phone(
        self, manager: Manager, titles: Titles, ntfy: Ntfy, topic: str
    ) -> None:
        manager.update()
        manager.at(30)
        manager.update(resolved=True)
        manager.at(330)

        assert titles() == [DAMP, DRY]
        (shown,) = ntfy.shown(topic)
        assert shown["title"] == DRY

    def test_an_alert_that_comes_again_replaces_its_own_end(
        self, manager: Manager, ntfy: Ntfy, topic: str
    ) -> None:
        for second, resolved in ((0, False), (400, True), (90_000, False)):
            manager.now = NOW + second
            manager.update(resolved=resolved)
            manager.at(second, second + 30)

        assert len(ntfy.sent(topic)) == 3
        assert [message["title"] for message in ntfy.shown(topic)] == [DAMP]

    def test_an_alert_that_is_over_within_the_group_wait_is_not_notified(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(10)
        manager.update(resolved=True)
        manager.at(30, 300, HOUR)

        assert titles() == []

    def test_alerts_of_a_group_are_one_notification(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update(severity="info", labels={"location": "hall"})
        for place in ("attic", "bath", "cellar"):
            manager.update(title=f"{place} is damp", labels={"location": place})
        manager.at(0, 30)

        assert len(titles()) == 1
        assert titles()[0].endswith("is damp and 3 more")

    def test_the_more_urgent_group_is_notified_first(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update(source="a", title="info", severity="info")
        manager.update(source="b", title="critical", severity="critical")
        manager.update(source="c", title="warning")
        manager.at(0, 60)

        assert titles() == ["critical", "warning", "info"]

    def test_a_higher_severity_is_notified_and_replaces_the_notification(
        self, new_manager: NewManager, ntfy: Ntfy, topic: str
    ) -> None:
        critical = {"name": "critical", "match": ["severity=critical"]}
        manager = new_manager(routes=[critical, {"name": "rest"}])
        manager.update(title="UPS at 40 %")
        manager.at(0, 30)
        manager.now += 60
        manager.update(title="UPS at 10 %", severity="critical")
        manager.at(95, 130)

        assert len(ntfy.sent(topic)) == 2
        (shown,) = ntfy.shown(topic)
        assert (shown["title"], shown["priority"]) == ("UPS at 10 %", 5)

    def test_the_group_it_left_does_not_overwrite_it_later(
        self, new_manager: NewManager, ntfy: Ntfy, topic: str
    ) -> None:
        critical = {"name": "critical", "match": ["severity=critical"]}
        manager = new_manager(routes=[critical, {"name": "rest"}])
        manager.update(title="UPS at 40 %")
        manager.at(0, 30)
        manager.now += 60
        manager.update(title="UPS at 10 %", severity="critical")
        manager.update(title="UPS fan is dusty", labels={"part": "fan"})
        manager.at(95, 130, 400)

        shown = {message["title"] for message in ntfy.shown(topic)}
        assert shown == {"UPS at 10 %", "UPS fan is dusty"}

    def test_an_alert_may_go_several_ways(
        self, new_manager: NewManager, receiver: Receiver, ntfy: Ntfy, topic: str
    ) -> None:
        manager = new_manager(
            {
                "phone": ntfy.receiver_url(topic),
                "mail": f"json://127.0.0.1:{receiver.port}/mail",
            },
            routes=[
                {"name": "log", "receivers": ["mail"], "continue": True},
                {"name": "rest"},
            ],
        )
        manager.update()
        manager.at(0, 30)

        assert len(ntfy.sent(topic)) == len(receiver.requests) == 1


class TestReminding:
    def test_an_alert_that_goes_on_is_notified_again(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(0, 30, 4 * HOUR, 4 * HOUR + 30, 8 * HOUR + 60)

        assert titles() == [DAMP, f"Still: {DAMP}", f"Still: {DAMP}"]

    def test_an_acknowledged_one_is_not_but_its_end_is_notified(
        self, manager: Manager, titles: Titles, run_cli: Callable[..., str]
    ) -> None:
        manager.update()
        manager.at(0, 30)
        (fingerprint,) = [each["fingerprint"] for each in listed(run_cli)]
        run_cli("ack", fingerprint[:6])
        manager.at(4 * HOUR + 30, 8 * HOUR + 30)
        assert titles() == [DAMP]

        manager.update(resolved=True)
        manager.at(9 * HOUR, 9 * HOUR + 30)
        assert titles() == [DAMP, DRY]

    def test_an_alert_without_updates_is_over_some_day(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        manager = new_manager(resolve_timeout="2h")
        manager.update()
        manager.at(0, 30, 2 * HOUR + 1, 2 * HOUR + 31)

        assert titles() == [DAMP, DRY]


@pytest.fixture
def run_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs ``meshtasks alerts …`` on the managers' state; gives its output."""
    from meshtasks.cli import app  # noqa: PLC0415

    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MESH_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr("time.time", lambda: NOW)

    def run(*arguments: str) -> str:
        app(["alerts", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def listed(run_cli: Callable[..., str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_cli("list", "--json").splitlines()]


class TestMuting:
    def test_a_silenced_alert_is_notified_when_the_silence_ends(
        self, manager: Manager, titles: Titles
    ) -> None:
        silence(manager, "location=attic", until=HOUR)
        manager.update()
        manager.at(0, 30, 300)
        assert titles() == []

        manager.at(HOUR)
        assert titles() == [DAMP]

    def test_or_when_somebody_ends_it(
        self, manager: Manager, titles: Titles, run_cli: Callable[..., str]
    ) -> None:
        silence_id = run_cli("silence", "location=attic", "--for", "2h").strip()
        manager.update()
        manager.at(0, 60)
        run_cli("expire", silence_id)
        manager.at(61)

        assert titles() == [DAMP]

    def test_the_end_of_a_notified_alert_waits_for_the_silence_too(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(0, 30)
        silence(manager, "location=attic", until=HOUR)
        manager.update(resolved=True)
        manager.at(600)
        assert titles() == [DAMP]

        manager.at(HOUR)
        assert titles() == [DAMP, DRY]

    def test_an_inhibited_alert_is_notified_when_the_inhibiting_one_is_over(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        rule = {
            "source": ["severity=critical"],
            "target": ["severity=warning"],
            "equal": ["location"],
        }
        manager = new_manager(inhibit=[rule])
        manager.update(title="attic burns", severity="critical", source="fire")
        manager.update()
        manager.at(0, 30, 300, HOUR)
        assert titles() == ["attic burns"]

        manager.update(
            title="attic burns", severity="critical", source="fire", resolved=True
        )
        manager.at(HOUR + 30)
        assert sorted(titles()[1:]) == ["Resolved: attic burns", DAMP]

    def test_quiet_hours_hold_back_all_but_critical_alerts(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        quiet = {"from": "13:00", "to": "14:00"}  # the clock starts at 13:20
        manager = new_manager(quiet_hours=quiet)
        manager.update()
        manager.update(title="bath is damp", labels={"location": "bath"})
        manager.update(title="fire", severity="critical", source="fire")
        manager.at(0, 30)
        manager.update(resolved=True)
        manager.at(60, 300, 2_399)
        assert titles() == ["fire"]

        manager.at(2_400)
        assert titles() == ["fire", "bath is damp"]

    def test_what_ended_within_quiet_hours_is_notified_in_the_morning(
        self, new_manager: NewManager, ntfy: Ntfy, topic: str
    ) -> None:
        manager = new_manager(quiet_hours={"from": "13:00", "to": "14:00"})
        manager.update()
        manager.at(0, 30)
        manager.update(resolved=True)
        manager.at(60, 2_400)

        (message,) = ntfy.sent(topic)
        assert message["title"] == DRY

    def test_a_flapping_alert_is_notified_as_such_once_and_then_when_it_has_settled(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        eager = {"group_wait": "0s", "group_interval": "0s", "repeat_interval": "4h"}
        manager = new_manager(
            routes=[{"name": "all", **eager}],
            flapping={"changes": 4, "within": "10m"},
        )
        for number in range(60):
            manager.now = NOW + number * 10
            manager.update(resolved=bool(number % 2))
            manager.at(number * 10)
        assert titles() == [DAMP, DRY, DAMP, "Unstable: attic is damp"]

        manager.at(600, 900, 1_200)
        assert titles()[4:] == [DRY]


def silence(manager: Manager, matcher: str, until: float) -> None:
    with manager.tables() as tables:
        made = Silence("s1", (matcher,), NOW, NOW + until, "ann", "")
        tables.put_silence(made)


class TestFailingReceivers:
    @pytest.fixture
    def two(self, new_manager: NewManager, receiver: Receiver, ntfy: Ntfy) -> Manager:
        """Phone is the test's HTTP service, mail the topic ``fallback`` of ntfy."""
        return new_manager(
            {
                "phone": f"ntfy://127.0.0.1:{receiver.port}/phone",
                "mail": ntfy.receiver_url(f"fallback-{receiver.port}"),
            },
            defaults={"receivers": ["phone", "mail"], "group_wait": "0s"},
        )

    @pytest.fixture
    def one(self, new_manager: NewManager, receiver: Receiver) -> Manager:
        url = f"ntfy://127.0.0.1:{receiver.port}/phone"
        return new_manager({"phone": url}, defaults=ONE)

    def test_the_next_receiver_takes_over(
        self, two: Manager, receiver: Receiver, ntfy: Ntfy
    ) -> None:
        receiver.script(Answer(500))
        two.update()
        two.at(0, 60)

        assert len(receiver.requests) == 1
        assert len(ntfy.sent(f"fallback-{receiver.port}")) == 1
        assert two.events()[1:] == [("not sent", "phone"), ("sent", "mail")]

    @pytest.mark.parametrize("status", [401, 503])
    def test_when_all_fail_it_is_tried_until_one_takes_it(
        self, one: Manager, receiver: Receiver, status: int
    ) -> None:
        receiver.script(Answer(status), Answer(status), Answer(200))
        one.update()
        one.at(0, 1)
        assert len(receiver.requests) == 1

        one.at(11, 60, 600)
        assert len(receiver.requests) == 3
        assert [kind for kind, _ in one.events()] == [
            "firing",
            "not sent",
            "not sent",
            "sent",
        ]

    @pytest.mark.parametrize(("asked", "kept"), [("200", 200), ("86400", 300)])
    def test_the_wait_that_a_service_asks_for_is_kept_for_five_minutes_at_most(
        self, one: Manager, receiver: Receiver, asked: str, kept: int
    ) -> None:
        receiver.script(Answer(429, headers={"Retry-After": asked}))
        one.update()
        one.at(0, kept - 1)
        assert len(receiver.requests) == 1

        one.at(kept)
        assert len(receiver.requests) == 2

    def test_a_receiver_that_fails_is_not_tried_for_every_group(
        self, one: Manager, receiver: Receiver
    ) -> None:
        receiver.always = Answer(503, headers={"Retry-After": "60"})
        for number in range(20):
            one.update(source=f"s{number}")
        one.at(0, 30)
        assert len(receiver.requests) == 1

        receiver.always = Answer(200)
        one.at(61)
        assert len(receiver.requests) == 21

    def test_a_receiver_that_is_away_for_long_is_logged_once_and_when_it_is_back(
        self, one: Manager, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.always = Answer(503)
        one.update()
        one.at(*range(0, 6_000, 60))
        assert len(receiver.requests) == 100
        receiver.always = Answer(200)
        one.at(6_000)

        assert [record.message for record in caplog.records] == [
            "Notification not sent: receiver phone: HTTP 503 Service Unavailable",
            'No receiver of route all took "attic is damp"; it is tried again',
            "Receiver phone takes notifications again",
        ]

    def test_what_ended_meanwhile_is_notified_all_the_same(
        self, one: Manager, receiver: Receiver
    ) -> None:
        receiver.script(Answer(503))
        one.update()
        one.at(0)
        one.update(resolved=True)
        one.at(600)

        assert json.loads(receiver.requests[-1].body)["title"] == DRY

    def test_the_end_of_what_was_notified_is_retried_too(
        self, one: Manager, receiver: Receiver
    ) -> None:
        receiver.script(Answer(200), Answer(503))
        one.update()
        one.at(0)
        one.update(resolved=True)
        one.at(300, 900)

        assert len(receiver.requests) == 3

    def test_a_failing_group_does_not_hold_up_another(
        self, one: Manager, receiver: Receiver
    ) -> None:
        receiver.script(Answer(503))
        one.update(severity="critical", source="a")
        one.at(0)
        one.update(source="b")
        one.at(1)

        assert one.events()[-1] == ("sent", "phone")

    def test_without_any_receiver_it_says_so_and_goes_on(
        self, new_manager: NewManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = new_manager({})
        manager.update()
        manager.at(0, 30, 60, 600)

        assert [kind for kind, _ in manager.events()] == ["firing", "no receiver"]
        assert "set MESH_RECEIVERS__PHONE" in caplog.text


ONE = {"receivers": ["phone"], "group_wait": "0s", "group_interval": "1m"}

NOTIFY = """
import sys
from pathlib import Path
from tests.support.alerting import Manager

manager = Manager(Path(sys.argv[1]), {"phone": sys.argv[2]})
manager.at(30)
"""


class TestSurviving:
    def test_the_state_survives_a_restart(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        before = new_manager()
        before.update()
        before.at(10)
        before.close()

        after = new_manager()
        after.at(30, 60)
        assert titles() == [DAMP]

    def test_several_processes_notify_once(
        self, manager: Manager, titles: Titles, ntfy: Ntfy, topic: str, tmp_path: Path
    ) -> None:
        for number in range(5):
            manager.update(source=f"s{number}")
        manager.at(0)
        arguments = ["-c", NOTIFY, str(tmp_path), ntfy.receiver_url(topic)]
        command = [sys.executable, "-W", "ignore", *arguments]
        workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]

        assert [worker.wait(300) for worker in workers] == [0, 0]
        assert len(titles()) == 5

    def test_what_a_killed_worker_was_sending_is_sent_by_another(
        self, manager: Manager, titles: Titles
    ) -> None:
        manager.update()
        manager.at(0)
        killed_with = manager.service.claim(NOW + 30)
        assert killed_with is not None

        manager.at(31, 60)
        assert titles() == []
        manager.at(300)
        assert titles() == [DAMP]

    def test_other_routes_notify_nothing_anew(
        self, new_manager: NewManager, titles: Titles
    ) -> None:
        before = new_manager()
        before.update()
        before.at(0, 30)
        before.close()

        after = new_manager(routes=[{"name": "renamed", "group_by": ["location"]}])
        after.at(600, 700)
        assert titles() == [DAMP]
        after.update(resolved=True)
        after.at(1_000, 1_100)
        assert titles() == [DAMP, DRY]

    def test_the_states_keep_the_names_of_the_first_version(
        self, manager: Manager
    ) -> None:
        manager.update()
        with manager.tables() as tables:
            db = tables._db  # noqa: SLF001
            ((state,),) = db.exec_driver_sql("SELECT state FROM alerts")
            ((told,),) = db.exec_driver_sql("SELECT notified FROM alert_members")

        alert = json.loads(state)
        assert alert["said_at"] == alert["heard_at"] == NOW
        assert json.loads(told)["owed"] is False

    def test_alerts_that_are_long_over_are_forgotten(self, manager: Manager) -> None:
        manager.update()
        manager.at(0, 30)
        manager.update(resolved=True)
        manager.at(400, 1_000, 9 * 24 * HOUR)

        with manager.tables() as tables:
            assert tables.alerts() == []
            assert tables.due_group(NOW + 1e9) is None
