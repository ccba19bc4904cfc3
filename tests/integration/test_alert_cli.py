"""``meshtasks alerts`` on the state of an alert manager."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtasks.flows.alerts.store import AlertStore
from tests.support.alerting import Manager
from tests.support.command import Command, script
from tests.support.receiver import Answer, Receiver


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path, {})
    manager.now = time.time()
    yield manager
    manager.close()


@pytest.fixture
def alerts(
    manager: Manager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks alerts …`` on the manager's state."""
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MESH_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("LOGNAME", "ann")
    return script(monkeypatch, capsys, "alerts")


def only(alerts: Command) -> dict[str, str]:
    (line,) = alerts("list", "--json").stdout.splitlines()
    shown: dict[str, str] = json.loads(line)
    return shown


def test_a_house_without_alerts(alerts: Command) -> None:
    assert alerts("list")[:2] == (0, "no alerts\n")


def test_alerts_are_listed_the_gravest_first(manager: Manager, alerts: Command) -> None:
    manager.update()
    manager.update(title="attic burns", severity="critical", source="fire")
    manager.update(title="bath is dry", source="bath")
    manager.update(source="bath", resolved=True)

    head, *rows = alerts("list").stdout.splitlines()
    assert head.split() == [
        "ID",
        "STATE",
        "SEVERITY",
        "SINCE",
        "FOR",
        "NOTIFIED",
        "TITLE",
    ]
    assert [row.split("  ")[-1].strip() for row in rows] == [
        "attic burns",
        "attic is damp",
    ]
    assert "resolved" in alerts("list", "--all").stdout


def test_a_silence_is_made_shown_and_ended(manager: Manager, alerts: Command) -> None:
    manager.update()
    made = alerts(
        "silence", "location=attic", "severity!=info", "--for", "2h",
        "--comment", "painting",
    )  # fmt: skip
    silence_id = made.stdout.strip()
    assert only(alerts)["state"] == "silenced"

    listed = alerts("list").stdout
    assert f"silence {silence_id}: location=attic severity!=info until" in listed
    assert "(2 h left), by ann (painting)" in listed

    assert alerts("expire", silence_id).exit_code == 0
    assert only(alerts)["state"] == "firing"
    assert alerts("expire", silence_id).exit_code == 1


def test_silence_lists_what_it_silences_now(manager: Manager, alerts: Command) -> None:
    manager.update()

    made = alerts("silence", "location=attic", "--for", "2h")
    assert made.stderr.endswith("mutes 1 active alert:\n  attic is damp\n")
    assert alerts("expire", made.stdout.strip()[:4]).exit_code == 0


def test_a_silence_of_nothing_says_so_and_names_the_labels_there_are(
    manager: Manager, alerts: Command
) -> None:
    manager.update()

    made = alerts("silence", "location=cellar", "--for", "2h")

    assert "no active alert matches; future alerts are muted" in made.stderr
    assert "location=attic" in made.stderr


def test_all_of_an_alert_is_shown_by_the_beginning_of_its_id(
    manager: Manager, alerts: Command
) -> None:
    manager.update(fingerprint="abcdef")

    shown = alerts("show", "abc").stdout.splitlines()

    assert shown[:2] == ["id           abcdef", "title        attic is damp"]
    assert "label        location=attic" in shown
    assert alerts("show", "x").exit_code == 1


def test_an_alert_is_acknowledged_by_the_beginning_of_its_id(
    manager: Manager, alerts: Command
) -> None:
    manager.update(fingerprint="abcdef")

    assert alerts("ack", "abc")[:2] == (0, "abcdef attic is damp\n")
    assert only(alerts)["acknowledged_by"] == "ann"


@pytest.mark.parametrize("beginning", ["x", "ab"])
def test_an_id_of_none_or_several_alerts_is_refused(
    manager: Manager, alerts: Command, beginning: str
) -> None:
    manager.update(fingerprint="abc")
    manager.update(fingerprint="abd")

    refused = alerts("ack", "abc", beginning)
    assert refused.exit_code == 1
    assert "active alerts have an id that begins with" in refused.stderr
    assert "acknowledged" not in alerts("list").stdout  # all or nothing


@pytest.mark.parametrize(
    "arguments",
    [
        ("silence", "attic", "--for", "2h"),
        ("silence", "location=attic", "--for", "120"),
        ("silence", "location=attic"),
        ("silence", "--for", "2h"),
        ("ack",),
    ],
)
def test_wrong_usage(alerts: Command, arguments: tuple[str, ...]) -> None:
    assert alerts(*arguments).exit_code == 2


def test_the_history_lists_what_happened(manager: Manager, alerts: Command) -> None:
    manager.update(fingerprint="abc")
    alerts("ack", "abc")
    manager.update(fingerprint="abc", resolved=True, message="dry again")

    lines = alerts("history").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["firing", "acknowledged", "resolved"]
    assert lines[-1].endswith("[abc] attic is damp: dry again")
    (latest,) = alerts("history", "--limit", "1", "--json").stdout.splitlines()
    assert json.loads(latest)["kind"] == "resolved"


class TestTrying:
    def test_a_receiver_that_works(
        self, alerts: Command, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"ntfy://127.0.0.1:{receiver.port}/alerts"
        monkeypatch.setenv("MESH_RECEIVERS__PHONE", url)

        assert alerts("test", "phone").exit_code == 0
        assert json.loads(receiver.requests[0].body)["topic"] == "alerts"

    @pytest.mark.parametrize(("status", "exit_code"), [(403, 69), (503, 69)])
    def test_one_that_does_not(
        self,
        alerts: Command,
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        exit_code: int,
    ) -> None:
        receiver.always = Answer(status)
        url = f"ntfy://127.0.0.1:{receiver.port}/alerts"
        monkeypatch.setenv("MESH_RECEIVERS__PHONE", url)
        result = alerts("test", "phone")

        assert result.exit_code == exit_code
        assert f"receiver phone: HTTP {status}" in result.stderr

    @pytest.mark.parametrize("name", ["phone", "pager"])
    def test_one_that_is_not_there(self, alerts: Command, name: str) -> None:
        assert alerts("test", name).exit_code == 1


def test_a_silence_goes_by_the_clock_of_the_state(
    alerts: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = time.time() + 7200  # the database's clock, as of PostgreSQL
    monkeypatch.setattr(AlertStore, "now", lambda _: ahead)

    silence_id = alerts("silence", "location=attic", "--for", "1h").stdout.strip()

    assert f"silence {silence_id}: " in alerts("list").stdout
    assert "(1 h left)" in alerts("list").stdout
    assert alerts("expire", silence_id).exit_code == 0
    assert silence_id not in alerts("list").stdout
