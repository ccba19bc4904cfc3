"""Rules that name a field of a metric, and what their alerts say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshtasks.records.alert import Alert
from meshtasks.rules.config import RuleBook, ThresholdRule
from meshtasks.rules.detection import Series
from meshtasks.rules.evaluation import evaluate

START = 1_795_440_000.0
DISK = Series(
    "key", "disk", "", field="used_percent", tags=(("host", "nas"), ("path", "/data"))
)


def rule(**changes: Any) -> ThresholdRule:
    fields = {
        "name": "disk-full",
        "type": "threshold",
        "routing_key": "metrics.system.#",
        "metric": "disk",
        "field": "used_percent",
        "above": 90,
        "severity": "warning",
        "title": "{place}: {tags[path]} is nearly full",
        "message": "{kind} {field} {value:g} > {limit:g}",
    }
    return ThresholdRule.model_validate(fields | changes)


def alerts(watching: ThresholdRule, series: Series, *values: float) -> list[Alert]:
    samples = [(START + second, value) for second, value in enumerate(values)]
    return evaluate([watching], series, None, samples, START)[1]


def test_the_alert_says_which_metric_where_and_how_bad() -> None:
    (alert,) = alerts(rule(), DISK, 91.5)

    assert alert.title == "nas: /data is nearly full"
    assert alert.message == "disk used_percent 91.5 > 90"
    assert alert.labels == {
        "rule": "disk-full",
        "kind": "disk",
        "field": "used_percent",
        "host": "nas",
        "path": "/data",
    }


def test_two_disks_of_one_host_are_two_alerts() -> None:
    other = DISK._replace(tags=(("host", "nas"), ("path", "/")))

    (one,), (two,) = alerts(rule(), DISK, 95), alerts(rule(), other, 95)

    assert one.fingerprint != two.fingerprint


def test_the_end_of_it_has_a_text_without_one_being_given() -> None:
    _, resolved = alerts(rule(), DISK, 95, 80)

    assert resolved.message == "nas: disk used_percent is back at 80."


def test_a_metric_without_a_host_is_called_by_its_name() -> None:
    (alert,) = alerts(rule(title="{place}"), Series("key", "disk", ""), 95)

    assert alert.title == "disk"


def test_a_tag_that_a_metric_lacks_is_empty_in_its_text() -> None:
    (alert,) = alerts(rule(title="<{tags[model]}>"), DISK, 95)

    assert alert.title == "<>"


def test_a_tag_does_not_take_the_place_of_the_rules_own_labels() -> None:
    series = DISK._replace(tags=(("rule", "x"), ("kind", "y")))

    (alert,) = alerts(rule(), series, 95)

    assert (alert.labels["rule"], alert.labels["kind"]) == ("disk-full", "disk")


def test_rules_for_metrics_and_rules_for_readings_do_not_mix() -> None:
    for_metrics = rule(routing_key="#", metric="*")
    fields = for_metrics.model_dump(exclude={"metric", "field", "sensors", "tags"})
    for_readings = ThresholdRule.model_validate(fields | {"name": "other"})
    book = RuleBook(rules=(for_metrics, for_readings))

    assert book.matching("sensors.temperature.attic", "attic") == (for_readings,)
    assert book.matching_metric("metrics.system.nas", "disk", ()) == {
        "used_percent": (for_metrics,)
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": None}, "field is for rules that name a metric"),
        ({"sensors": ["a"]}, "expected metric or sensors, not both"),
        ({"title": "{tags}"}, r"\{tags\} is not known"),
        ({"title": "{tags.items}"}, "is not known"),
        ({"title": "{tags[path].__class__}"}, "is not known"),
        ({"title": "{tags[path]:.1f}"}, "Unknown format code"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        rule(**changes)
