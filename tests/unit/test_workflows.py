"""config/workflows.yaml: which records start which workflows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshtasks.config.loader import load_yaml
from meshtasks.config.urls import is_base_url
from meshtasks.flows.webhooks.config import (
    Condition,
    Webhook,
    WorkflowBook,
)
from meshtasks.flows.webhooks.handler import combined
from meshtasks.outcome import DONE, Dead, Retry

SHIPPED = Path(__file__).parents[2] / "config" / "workflows.yaml"


def book(*workflows: dict[str, Any]) -> WorkflowBook:
    base = {"routing_key": "#", "webhook": {"url": "/webhook/x"}}
    named = [
        {"name": f"w{number}", **base, **each} for number, each in enumerate(workflows)
    ]
    return WorkflowBook.model_validate({"workflows": named})


def started(
    workflows: WorkflowBook, record: dict[str, Any], key: str = "home.x.y.z"
) -> list[str]:
    return [each.name for each in workflows.started_by(key, record)]


def holds(record: dict[str, Any], **asked: Any) -> bool:
    return Condition.model_validate(asked).holds(record)


def test_every_workflow_that_matches_is_started_in_the_order_of_the_file() -> None:
    workflows = book(
        {"name": "b", "routing_key": "home.light.#"},
        {"name": "other", "routing_key": "sensors.#"},
        {"name": "a", "routing_key": "home.*.kitchen.*"},
    )

    assert started(workflows, {}, "home.light.kitchen.state_changed") == ["b", "a"]


def test_a_routing_key_that_no_workflow_waits_for_is_known_without_the_record() -> None:
    workflows = book({"routing_key": "sensors.motion.#"})

    assert workflows.listens_to("sensors.motion.hall")
    assert not workflows.listens_to("home.light.kitchen.state_changed")


def test_all_conditions_must_hold() -> None:
    workflows = book(
        {"when": [{"field": "a", "equals": 1}, {"field": "b", "equals": 2}]}
    )

    assert started(workflows, {"a": 1, "b": 2}) == ["w0"]
    assert started(workflows, {"a": 1, "b": 3}) == []


@pytest.mark.parametrize(
    ("value", "equals", "expected"),
    [
        ("on", "on", True),
        ("off", "on", False),
        (True, True, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (21, 21.0, True),
        (None, None, True),
        ("", None, False),
    ],
)
def test_equals_compares_as_json_does(
    value: object, equals: object, expected: bool
) -> None:
    assert holds({"a": value}, field="a", equals=equals) is expected


def test_in_is_one_of_several() -> None:
    asked = {"field": "a", "in": ["on", "open", None]}

    assert holds({"a": "open"}, **asked)
    assert holds({}, **asked)
    assert not holds({"a": "off"}, **asked)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (21, True),
        ("21.5", True),
        (20, False),
        (26.0, False),
        ("unavailable", False),
        ("nan", False),
        (True, False),
        (None, False),
        ([21], False),
        (10**400, False),
    ],
)
def test_above_and_below_compare_numbers_and_text_that_reads_as_one(
    value: object, expected: bool
) -> None:
    assert holds({"a": value}, field="a", above=20, below=26) is expected


def test_one_limit_is_enough() -> None:
    assert holds({"a": -1e300}, field="a", below=0)
    assert holds({"a": 1e300}, field="a", above=0)


@pytest.mark.parametrize(
    ("old", "new", "is_changed"),
    [
        ({"state": "off"}, {"state": "on"}, True),
        ({"state": "on"}, {"state": "on"}, False),
        (None, {"state": "on"}, True),
        ({"state": "on"}, None, True),
    ],
)
def test_changed_compares_the_new_state_with_the_old(
    old: object, new: object, is_changed: bool
) -> None:
    record = {"old_state": old, "new_state": new}

    assert holds(record, field="new_state.state", changed=True) is is_changed
    assert holds(record, field="new_state.state", changed=False) is not is_changed


def test_an_attribute_may_change_although_the_state_does_not() -> None:
    record = {
        "old_state": {"state": "on", "attributes": {"brightness": 1}},
        "new_state": {"state": "on", "attributes": {"brightness": 2}},
    }

    assert holds(record, field="new_state.attributes.brightness", changed=True)


def test_a_path_that_leads_nowhere_is_null() -> None:
    record = {"new_state": "text"}

    assert holds(record, field="new_state.attributes.battery", equals=None)
    assert not holds(record, field="nothing.here", above=0)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"field": "a"}, "expected equals, in, above, below or changed"),
        ({"field": "motion", "changed": True}, "changed is for fields of new_state"),
        ({"field": "", "equals": 1}, "pattern"),
        ({"field": "a..b", "equals": 1}, "pattern"),
        ({"field": "a", "in": []}, "at least 1 item"),
        ({"field": "a", "equals": {}}, "valid"),
        ({"field": "a", "above": "warm"}, "number"),
        ({"field": "a", "like": "x"}, "Extra inputs"),
    ],
)
def test_a_condition_that_cannot_work_is_refused(
    condition: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        Condition.model_validate(condition)


@pytest.mark.parametrize(
    "url",
    [
        "/webhook/hall-light",
        "/webhook/a?token=1",
        "http://diary.lan:8080/in",
        "https://[fd00::1]/in",
    ],
)
def test_a_webhook_is_a_path_on_n8n_or_a_whole_url(url: str) -> None:
    assert Webhook(url=url).is_path == url.startswith("/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("webhook/x", "expected a path such as /webhook/name"),
        ("ftp://host/x", "expected a path such as /webhook/name"),
        ("http:///x", "expected a path such as /webhook/name"),
        ("http://host:0/", "expected a path such as /webhook/name"),
        ("http://host:port/", "Port could not be cast"),
        ("http://me:secret@host/x", "a secret belongs in auth"),
        ("http://host/a b", "without spaces"),
        ("http://host/\r\nX: y", "without spaces"),
        ("http://host\\@other/", "without spaces"),
        ("/webhook/x#y", "without spaces"),
        ("", "without spaces"),
    ],
)
def test_a_url_that_may_lead_elsewhere_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Webhook(url=url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5678", True),
        ("https://house.lan/n8n/", True),
        ("127.0.0.1:5678", False),
        ("/n8n", False),
        ("http://n8n/?x=1", False),
        ("http://user:password@n8n", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_only_a_whole_url_can_have_paths_put_behind_it(
    url: str, expected: bool
) -> None:
    assert is_base_url(url) is expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timeout_seconds": 61}, "less than or equal to 60"),
        ({"method": "GET"}, "'POST', 'PUT' or 'PATCH'"),
        ({"auth": {"header": "X Token", "secret": "n8n"}}, "pattern"),
        ({"auth": {"header": "X-Token", "secret": "N8N__KEY"}}, "pattern"),
        ({"send": "all"}, "'record' or 'batch'"),
    ],
)
def test_a_webhook_that_cannot_work_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        Webhook.model_validate({"url": "/webhook/x", **changes})


def test_two_workflows_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be unique; twice: same"):
        book({"name": "same"}, {"name": "same"})


# --- the file that comes with the mesh


def test_as_shipped_no_record_starts_anything() -> None:
    assert load_yaml(SHIPPED, WorkflowBook).workflows == ()


def test_its_examples_work_when_they_are_made_active(tmp_path: Path) -> None:
    comments = re.findall(r"^#(  .*)$", SHIPPED.read_text(), flags=re.MULTILINE)
    examples = comments[comments.index("  - name: hall-light") :]
    active = tmp_path / "workflows.yaml"
    active.write_text("\n".join(["workflows:", *examples]))
    workflows = load_yaml(active, WorkflowBook)
    opened = {
        "entity_id": "binary_sensor.front_door",
        "old_state": {"state": "off", "attributes": {"device_class": "door"}},
        "new_state": {"state": "on", "attributes": {"device_class": "door"}},
    }

    assert [each.name for each in workflows.workflows] == [
        "hall-light",
        "door-opened",
        "battery-low",
        "automation-diary",
    ]
    key = "home.binary_sensor.front_door.state_changed"
    assert started(workflows, opened, key) == ["door-opened"]


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "ON", "y"])
def test_on_and_off_are_words_and_not_booleans(tmp_path: Path, word: str) -> None:
    file = tmp_path / "condition.yaml"
    file.write_text(f"{{field: new_state.state, equals: {word}}}")

    assert load_yaml(file, Condition).equals == word


# --- what the calls for one record come to


def test_a_record_is_done_when_every_workflow_has_taken_it() -> None:
    assert combined([DONE, DONE]) is DONE
    assert combined([]) is DONE


def test_a_refusal_makes_it_dead_with_every_reason() -> None:
    one, other = Dead("a: 404", "WebhookRefused"), Dead("b: 410", "WebhookRefused")

    assert combined([one, DONE, other]) == Dead("a: 404; b: 410", "WebhookRefused")


def test_it_is_retried_while_any_call_may_still_succeed() -> None:
    busy = Retry("429", "WebhookBusy", retry_after_seconds=5)
    failed = Retry("500", retry_after_seconds=30)

    outcome = combined([Dead("404"), busy, failed, DONE])

    assert outcome == Retry("429", "WebhookBusy", retry_after_seconds=30)


def test_an_outage_of_n8n_is_the_reason_for_the_worker() -> None:
    outage = Retry("down", "SinkUnavailable", sink="webhook", tried=False)

    outcome = combined([Retry("500", tried=False), outage])

    assert outcome == outage


def test_a_retry_counts_if_one_of_its_calls_was_tried() -> None:
    outcome = combined([Retry("spared", tried=False), Retry("500")])

    assert isinstance(outcome, Retry)
    assert outcome.tried
