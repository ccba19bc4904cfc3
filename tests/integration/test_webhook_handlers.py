"""The handlers of motion and home events, with real broker, archive and webhooks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshtasks.amqp import headers
from meshtasks.demo import loopback
from meshtasks.errors import ConfigError
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks import handler as webhooks_handler
from meshtasks.outcome import DONE, Dead, Retry
from meshtasks.records.envelope import Envelope
from tests.support.amqp import drain
from tests.support.archive import lines_sent
from tests.support.handling import NOW, handle, message, opened, settings_of
from tests.support.meshes import reconfigured
from tests.support.receiver import Answer, Receiver

ROOT = Path(__file__).parents[2]
HEALTH = "/healthz/readiness"

Open = Callable[..., Sinks]

_numbers = itertools.count(1)


@pytest.fixture
def open_sinks(receiver: Receiver, tmp_path: Path) -> Iterator[Open]:
    """Opens the sinks of a mesh with the given workflows; its n8n is the receiver.
    Without a broker nothing is selected for the archive."""
    receiver.by_path[HEALTH] = Answer(200)
    env = {"MESH_CONFIG_DIR": str(ROOT / "config"), "MESH_STATE_DIR": str(tmp_path)}
    with ExitStack() as stack:

        def open_sinks(*workflows: dict[str, Any], **environment: Any) -> Sinks:
            files: dict[str, Any] = {"workflows": {"workflows": list(workflows)}}
            if "broker_url" not in environment:
                files["archive"] = {"select": []}
            config = reconfigured(env, tmp_path / f"config-{next(_numbers)}", **files)
            fields = {"n8n_url": receiver.url, **environment}
            return stack.enter_context(opened(settings_of(config, **fields)))

        yield open_sinks


def workflow(name: str, url: str | None = None, **changes: Any) -> dict[str, Any]:
    webhook = {"url": url or f"/webhook/{name}", **changes.pop("webhook", {})}
    return {"name": name, "routing_key": "#", "webhook": webhook, **changes}


def motion(is_moving: bool = True, **fields: Any) -> Envelope:
    content = {"motion": is_moving, "timestamp": NOW, **fields}
    return message("sensors.motion", "sensors.motion.hall", content)


def again(before: Envelope) -> Envelope:
    """The same message when it comes back from a retry queue."""
    return replace(before, headers={headers.EXCHANGE: before.exchange})


def called(receiver: Receiver) -> list[str]:
    paths = [each.path for each in receiver.requests if each.path != HEALTH]
    return [path.removeprefix("/webhook/") for path in paths]


def archived(mesh_url: str, queue: str = "archive.metrics") -> list[Any]:
    return [
        line["record"]
        for each in drain(mesh_url, queue)
        for line in lines_sent(each.body)
    ]


# --- what is called, and with what


def test_an_event_without_a_workflow_is_archived_and_done(
    open_sinks: Open, receiver: Receiver, mesh_url: str
) -> None:
    event = motion()

    assert handle(open_sinks(broker_url=mesh_url), event) == [DONE]

    assert receiver.requests == []
    assert archived(mesh_url) == [json.loads(event.body)]


def test_an_event_that_nobody_is_to_be_told_of_starts_nothing_and_is_done(
    open_sinks: Open, receiver: Receiver
) -> None:
    quiet = replace(motion(), headers={headers.QUIET: 1})
    assert handle(open_sinks(workflow("light")), quiet) == [DONE]
    assert called(receiver) == []


def test_a_motion_starts_its_workflow_with_the_sensor_named(
    open_sinks: Open, receiver: Receiver
) -> None:
    when = [{"field": "motion", "equals": True}]
    sinks = open_sinks(workflow("light", when=when))

    assert handle(sinks, motion(), motion(is_moving=False)) == [DONE, DONE]

    (request,) = receiver.requests
    assert json.loads(request.body) == {
        "motion": True,
        "timestamp": NOW,
        "sensor_id": "hall",
    }
    assert request.headers["x-mesh-routing-key"] == "sensors.motion.hall"
    assert request.headers["x-mesh-time"] == "2026-11-23T13:20:00.000Z"


def test_a_state_change_goes_to_n8n_as_home_assistant_said_it(
    open_sinks: Open, receiver: Receiver, mesh_url: str
) -> None:
    state = {"entity_id": "lock.door", "state": "unlocked", "attributes": {"by": "key"}}
    change = {"entity_id": "lock.door", "old_state": None, "new_state": state}
    key = "home.lock.door.state_changed"
    event = message("home.events.state_changes", key, change)

    assert handle(open_sinks(workflow("door"), broker_url=mesh_url), event) == [DONE]

    assert json.loads(receiver.requests[0].body) == change
    assert archived(mesh_url, "archive.events") == [change]


def test_an_automation_starts_its_workflow(
    open_sinks: Open, receiver: Receiver
) -> None:
    key = "home.automation.lamp.trigger"
    event = message("home.events.automations", key, {"automation": "automation.lamp"})

    assert handle(open_sinks(workflow("diary")), event) == [DONE]

    assert called(receiver) == ["diary"]


def test_a_bad_event_is_dead_and_its_neighbours_are_done(
    open_sinks: Open, receiver: Receiver
) -> None:
    bad = message("sensors.motion", "sensors.motion", {"motion": True})

    outcomes = handle(open_sinks(workflow("light")), motion(), bad, motion())

    assert [type(each).__name__ for each in outcomes] == ["Done", "Dead", "Done"]
    assert len(receiver.requests) == 2


def test_a_whole_batch_is_one_request(open_sinks: Open, receiver: Receiver) -> None:
    sinks = open_sinks(workflow("diary", webhook={"send": "batch"}))

    assert handle(sinks, motion(), motion(is_moving=False)) == [DONE, DONE]

    (request,) = receiver.requests
    entries = json.loads(request.body)
    assert [entry["record"]["motion"] for entry in entries] == [True, False]
    assert len({entry["id"] for entry in entries}) == 2


def test_the_key_is_the_same_when_a_message_comes_again_and_its_own_per_workflow(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("a"), workflow("b"))
    event = motion()

    for _ in range(2):
        handle(sinks, event)

    keys = Counter(each.headers["idempotency-key"] for each in receiver.requests)
    assert sorted(keys.values()) == [2, 2]
    assert {key.rpartition("/")[2] for key in keys} == {"a", "b"}


# --- faults


def test_a_refused_event_is_dead_and_not_archived(
    open_sinks: Open, receiver: Receiver, mesh_url: str
) -> None:
    receiver.script(Answer(410, b"gone"))
    sinks = open_sinks(workflow("light"), broker_url=mesh_url)

    dead, done = handle(sinks, motion(), motion())

    assert isinstance(dead, Dead)
    assert dead.error_type == "WebhookRefused"
    assert dead.reason.endswith("answered 410: gone")
    assert done is DONE
    assert len(archived(mesh_url)) == 1


def test_of_a_refused_batch_only_the_records_at_fault_are_dead(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("diary", webhook={"send": "batch"}))
    receiver.script(Answer(422), Answer(200), Answer(422), Answer(200), Answer(422))

    outcomes = handle(sinks, *(motion() for _ in range(4)))

    assert [type(each).__name__ for each in outcomes] == [
        "Done",
        "Done",
        "Done",
        "Dead",
    ]


def test_a_failing_webhook_is_called_for_every_record(
    open_sinks: Open, receiver: Receiver
) -> None:
    receiver.script(Answer(500))

    failed, done = handle(open_sinks(workflow("light")), motion(), motion())

    assert isinstance(failed, Retry)
    assert (failed.sink, failed.tried) == (None, True)
    assert done is DONE


def test_a_webhook_that_asks_for_a_pause_gets_it_and_others_are_called(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("busy"), workflow("free"))
    receiver.by_path["/webhook/busy"] = Answer(429, headers={"Retry-After": "9"})

    outcomes = handle(sinks, motion(), motion(), motion())

    assert called(receiver) == ["busy", "free", "free", "free"]
    assert [each.tried for each in outcomes if isinstance(each, Retry)] == [False] * 3
    waits = [each.retry_after_seconds for each in outcomes if isinstance(each, Retry)]
    assert waits == pytest.approx([9, 9, 9], abs=5)


def test_a_slow_webhook_is_waited_for_once_per_batch(
    open_sinks: Open, receiver: Receiver
) -> None:
    slow = workflow("slow", webhook={"timeout_seconds": 0.1})
    receiver.by_path["/webhook/slow"] = Answer(delay_seconds=60)

    outcomes = handle(open_sinks(slow, workflow("fast")), motion(), motion())

    assert called(receiver) == ["slow", "fast", "fast"]
    assert all(isinstance(each, Retry) and each.sink is None for each in outcomes)


def test_what_is_not_called_before_the_batch_has_taken_too_long_is_not_held_against_it(
    open_sinks: Open, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks_handler, "BATCH_SECONDS", 0.0)

    (outcome,) = handle(open_sinks(workflow("light")), motion())

    assert isinstance(outcome, Retry)
    assert not outcome.tried
    assert receiver.requests == []


def test_while_n8n_is_unavailable_only_the_first_call_is_made(
    open_sinks: Open, receiver: Receiver, mesh_url: str
) -> None:
    elsewhere = workflow("elsewhere", url=f"{receiver.url}/elsewhere")
    down = f"http://127.0.0.1:{loopback.free_port()}"
    sinks = open_sinks(workflow("light"), elsewhere, n8n_url=down, broker_url=mesh_url)

    outcomes = handle(sinks, motion(), motion())

    assert [
        (each.sink, each.tried) for each in outcomes if isinstance(each, Retry)
    ] == [
        ("webhook", True),
        ("webhook", False),
    ]
    assert called(receiver) == ["/elsewhere", "/elsewhere"]
    assert archived(mesh_url) == []


# --- several workflows for one record


def test_workflows_that_have_taken_an_event_are_not_called_again_for_it(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("a"), workflow("b"), workflow("c"))
    receiver.by_path["/webhook/b"] = Answer(500)
    event = motion()
    (first,) = handle(sinks, event)

    receiver.by_path["/webhook/b"] = Answer(200)
    (second,) = handle(sinks, again(event))

    assert isinstance(first, Retry)
    assert second is DONE
    assert called(receiver) == ["a", "b", "c", "b"]


def test_nor_when_the_dead_letter_is_replayed(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("a"), workflow("b"))
    receiver.by_path["/webhook/b"] = Answer(410)
    event = motion()
    (first,) = handle(sinks, event)

    receiver.by_path["/webhook/b"] = Answer(200)
    (second,) = handle(sinks, again(event))

    assert isinstance(first, Dead)
    assert second is DONE
    assert called(receiver) == ["a", "b", "b"]


def test_nor_when_only_the_archive_could_not_be_reached(
    open_sinks: Open, receiver: Receiver, mesh_url: str
) -> None:
    nobody = f"amqp://127.0.0.1:{loopback.free_port()}//"
    event = motion()
    (first,) = handle(open_sinks(workflow("a"), broker_url=nobody), event)

    (second,) = handle(open_sinks(workflow("a"), broker_url=mesh_url), again(event))

    assert isinstance(first, Retry)
    assert second is DONE
    assert called(receiver) == ["a"]
    assert len(archived(mesh_url)) == 1


def test_a_log_that_cannot_be_written_is_the_fault_to_report(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("a"), workflow("b"))
    receiver.by_path["/webhook/b"] = Answer(500)
    file = sinks.settings.env.state_dir / "mesh.db"
    file.write_bytes(b"not a database" * 1_000)

    (outcome,) = handle(sinks, motion())

    assert isinstance(outcome, Retry)
    assert outcome.sink == "webhook_log"


def test_a_log_that_cannot_be_read_keeps_repeated_events_from_being_called(
    open_sinks: Open, receiver: Receiver
) -> None:
    sinks = open_sinks(workflow("a"))
    file = sinks.settings.env.state_dir / "mesh.db"
    file.write_bytes(b"not a database" * 1_000)

    (outcome,) = handle(sinks, again(motion()))

    assert isinstance(outcome, Retry)
    assert outcome.sink == "webhook_log"
    assert receiver.requests == []


# --- what is refused at the start


def test_a_secret_that_nobody_gave_is_named_at_the_start(open_sinks: Open) -> None:
    auth = {"header": "X-Mesh-Token", "secret": "n8n"}
    sinks = open_sinks(workflow("a", webhook={"auth": auth}))

    with pytest.raises(
        ConfigError, match="MESH_SECRETS__N8N or MESH_SECRETS__N8N_FILE"
    ):
        sinks.settings.validate(load_flows().files)


@pytest.mark.parametrize("value", ["two\nlines", "ключ"])
def test_a_secret_that_fits_into_no_header_is_not_told(
    open_sinks: Open, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MESH_SECRETS__N8N", value)
    auth = {"header": "X-Mesh-Token", "secret": "n8n"}

    with pytest.raises(ConfigError) as caught:
        open_sinks(workflow("a", webhook={"auth": auth}))

    assert value not in str(caught.value)


def test_a_secret_may_stand_in_a_file(
    open_sinks: Open,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text("123456\n")
    monkeypatch.setenv("MESH_SECRETS__N8N_FILE", str(tmp_path / "token"))
    auth = {"header": "X-Mesh-Token", "secret": "n8n"}

    handle(open_sinks(workflow("a", webhook={"auth": auth})), motion())

    assert receiver.requests[0].headers["x-mesh-token"] == "123456"


def test_a_path_without_n8n_is_refused_at_the_start(open_sinks: Open) -> None:
    sinks = open_sinks(workflow("a"), n8n_url="n8n:5678")

    with pytest.raises(ConfigError, match="MESH_N8N_URL"):
        sinks.settings.validate(load_flows().files)
