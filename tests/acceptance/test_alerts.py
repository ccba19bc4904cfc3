"""Alerts from the exchange to the phone: real workers, real broker, ntfy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.state.database import StateLocation
from tests.support.alerting import CONFIG, alert_fields
from tests.support.amqp import drain, publish_raw, queue_depth, take
from tests.support.meshes import reconfigured
from tests.support.ntfy import Ntfy
from tests.support.receiver import Receiver
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

MESHTASKS = Path(sys.executable).with_name("meshtasks")
QUEUES = ("alerts.critical", "alerts.notifications")
QUICK: dict[str, Any] = {
    **CONFIG,
    "defaults": {
        "receivers": ["phone"],
        "group_by": ["..."],
        "group_wait": "1s",
        "group_interval": "0s",
        "repeat_interval": "1h",
    },
    "routes": [
        {"name": "critical", "match": ["severity=critical"], "group_wait": "0s"},
        {"name": "nagging", "match": ["nag=yes"], "repeat_interval": "2s"},
        {"name": "rest"},
    ],
}

CRITICAL = alert_fields(title="attic burns", severity="critical", source="fire")
WARNING = alert_fields()

Titles = Callable[[], list[str]]


@pytest.fixture
def env(
    mesh_env: dict[str, str], tmp_path: Path, ntfy: Ntfy, topic: str
) -> dict[str, str]:
    """A mesh that tells quickly, on the test's topic."""
    env = reconfigured(mesh_env, tmp_path / "config", alerts=QUICK)
    return {**env, "MESH_RECEIVERS__PHONE": ntfy.receiver_url(topic)}


@pytest.fixture
def titles(ntfy: Ntfy, topic: str) -> Titles:
    """Titles of everything that was sent to the phone."""
    return lambda: [message["title"] for message in ntfy.sent(topic)]


def publish(env: dict[str, str], *alerts: Any) -> None:
    bodies = [
        alert if isinstance(alert, bytes) else json.dumps(alert).encode()
        for alert in alerts
    ]
    publish_raw(env["MESH_BROKER_URL"], "alerts", "alerts.test", *bodies)


def wait_for(titles: Titles, count: int) -> None:
    wait_until(lambda: len(titles()) >= count, 30, f"{count} notifications")


def wait_until_settled(env: dict[str, str]) -> None:
    """Until no message waits in the queues."""
    url = env["MESH_BROKER_URL"]
    wait_until(
        lambda: not any(queue_depth(url, queue) for queue in QUEUES), 30, "empty queues"
    )


def firing(env: dict[str, str]) -> list[str]:
    """Sources of the alerts that go on."""
    store = AlertStore(StateLocation.in_directory(Path(env["MESH_STATE_DIR"])))
    with closing(store), store.tables() as tables:
        return [alert.source for alert in tables.firing()]


def test_every_alert_is_notified_once_although_both_queues_get_it(
    env: dict[str, str], titles: Titles, tmp_path: Path
) -> None:
    """The ledger of the alerts exchange: each message told or dead, per queue."""
    good = [
        alert_fields(
            title=f"{severity} {number}", severity=severity, source=f"s{number}"
        )
        for number in range(30)
        for severity in ("info", "warning", "critical")
        if number % 3 == ("info", "warning", "critical").index(severity)
    ]
    bad = [
        b"no json",
        b'{"title": "t"}',
        json.dumps({**WARNING, "severity": "loud"}).encode(),
    ]

    with running(Worker(tmp_path, env, *QUEUES)):
        publish(env, *good, *bad)
        publish(env, good[:10])  # as an array, and known already
        wait_for(titles, len(good))
        letters = take(env["MESH_BROKER_URL"], "dead.letter.queue", 2 * len(bad))
        wait_until_settled(env)

    assert Counter(titles()) == Counter(alert["title"] for alert in good)
    assert Counter(letter.headers[headers.QUEUE] for letter in letters) == {
        queue: len(bad) for queue in QUEUES
    }
    reasons = {letter.headers[headers.REASON] for letter in letters}
    assert any("severity" in reason for reason in reasons)


def test_groups_and_reminders_need_no_message_to_come(
    env: dict[str, str], titles: Titles, tmp_path: Path
) -> None:
    with running(Worker(tmp_path, env, *QUEUES)):
        nagging = alert_fields(labels={"nag": "yes"}, fingerprint="nag")
        publish(env, nagging)
        wait_for(titles, 2)
        command = [str(MESHTASKS), "alerts", "ack", "nag"]
        subprocess.run(command, env={**os.environ, **env}, check=True)
        publish(env, {**nagging, "resolved": True})
        wait_until(lambda: "Resolved" in titles()[-1], 30, "the end to be told")

    assert titles()[:2] == ["attic is damp", "Still: attic is damp"]


def test_two_workers_of_a_host_notify_an_alert_once(
    env: dict[str, str], titles: Titles, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    one = Worker(tmp_path, env, "alerts.critical", arguments=("-c", "1", "-n", "one@h"))
    other = Worker(
        tmp_path / "other", env, *QUEUES, arguments=("-P", "threads", "-n", "other@h")
    )
    alerts = [{**CRITICAL, "source": f"s{number}"} for number in range(20)]

    with running(one), running(other):
        publish(env, *alerts, WARNING)
        wait_for(titles, 21)
        wait_until_settled(env)

    assert len(titles()) == 21


def test_what_a_killed_worker_had_stored_is_notified_by_the_next(
    env: dict[str, str], titles: Titles, tmp_path: Path
) -> None:
    killed = Worker(tmp_path, env, "alerts.notifications", arguments=("-P", "solo"))
    killed.start()
    publish(env, WARNING)
    wait_until(lambda: firing(env), 20, "the alert to be taken in")
    killed.kill()

    with running(
        Worker(tmp_path, env, "alerts.notifications", arguments=("-P", "solo"))
    ):
        wait_for(titles, 1)

    assert titles() == ["attic is damp"]


def test_alerts_are_notified_when_the_phone_can_be_reached_again(
    env: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    receiver.stop()
    env["MESH_RECEIVERS__PHONE"] = f"ntfy://127.0.0.1:{receiver.port}/phone"

    with running(Worker(tmp_path, env, *QUEUES)) as worker:
        publish(env, CRITICAL, WARNING)
        wait_until(lambda: worker.log().count("it is tried again") > 1, 20, "both")
        wait_until_settled(env)  # a phone that is off holds up no queue
        receiver.start()
        wait_until(lambda: len(receiver.requests) >= 2, 60, "both alerts")

    told = [json.loads(each.body)["title"] for each in receiver.requests]
    assert sorted(told) == ["attic burns", "attic is damp"]
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []


def test_a_sensor_that_overheats_rings_the_phone(
    env: dict[str, str], ntfy: Ntfy, topic: str, tmp_path: Path
) -> None:
    with running(Worker(tmp_path, env, "sensors.temperature", *QUEUES)):
        reading = b'{"value": 140, "unit": "F", "location": "attic"}'
        key = "sensors.temperature.attic"
        publish_raw(env["MESH_BROKER_URL"], "sensors", key, reading)
        wait_until(lambda: ntfy.sent(topic), 30, "the notification")

    (message,) = ntfy.sent(topic)
    assert message["title"] == "attic is overheating"
    assert message["message"].startswith("attic has 60.0 °C")
    assert message["priority"] == 5
    assert message["tags"] == ["rotating_light", "critical"]


def test_a_worker_does_not_start_with_a_receiver_it_cannot_use(
    env: dict[str, str], tmp_path: Path
) -> None:
    env["MESH_RECEIVERS__PHONE"] = "ntfy:/hidden"
    worker = Worker(tmp_path, env, *QUEUES)
    worker.process.start()
    wait_until(lambda: not worker.process.running, 30, "the worker to give up")

    assert worker.stop() == 78
    assert "MESH_RECEIVERS__PHONE: expected an Apprise URL" in worker.log()
    assert "hidden" not in worker.log()
