"""config/alerts.yaml: what it means, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshtasks.flows.alerts.config import Inhibition
from tests.support.alerting import policy

ATTIC = {"severity": "warning", "source": "rules.damp", "location": "attic"}
REST = {"name": "rest", "receivers": ["phone"]}


def route(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "receivers": ["phone"], **changes}


def routes_of(labels: dict[str, str], *routes: dict[str, Any]) -> list[str]:
    return [group.route for group in policy(*routes).groups_of("fp", labels)]


def test_the_first_route_that_matches_counts() -> None:
    critical = route("critical", match=["severity=critical"])
    damp = route("damp", match=["source=~rules.*", "location=attic"])
    warning = route("warning", match=["severity=warning"])

    assert routes_of(ATTIC, critical, damp, warning, REST) == ["damp"]
    assert routes_of({**ATTIC, "severity": "info", "location": "x"}, damp, REST) == [
        "rest"
    ]


def test_with_continue_later_routes_count_too() -> None:
    log = route("log", **{"continue": True})

    assert routes_of(ATTIC, log, REST) == ["log", "rest"]


def test_alerts_with_the_same_values_of_the_labels_are_one_group() -> None:
    by_place = policy(route("all", group_by=["source", "location"]))

    (attic,) = by_place.groups_of("a", ATTIC)
    (other,) = by_place.groups_of("b", {**ATTIC, "severity": "critical"})
    (cellar,) = by_place.groups_of("c", {**ATTIC, "location": "cellar"})

    assert attic == other
    assert attic.labels == {"source": "rules.damp", "location": "attic"}
    assert cellar.id != attic.id


def test_alerts_can_be_kept_apart() -> None:
    apart = policy(route("all", group_by=["..."]))

    assert apart.groups_of("a", ATTIC) != apart.groups_of("b", ATTIC)


def test_the_same_labels_on_another_route_are_another_group() -> None:
    (one,) = policy(route("one")).groups_of("a", ATTIC)
    (other,) = policy(route("other")).groups_of("a", ATTIC)

    assert one.id != other.id


def test_defaults_stand_in_every_route_that_does_not_say_otherwise() -> None:
    one, other = policy(
        {"name": "one", "match": ["severity=critical"], "group_wait": "0s"},
        {"name": "other"},
        defaults={"receivers": ["mail"], "group_wait": "1m", "repeat_interval": "1d"},
    ).routes

    assert (one.group_wait, one.repeat_interval) == (0, 86_400)
    assert (other.group_wait, other.receivers) == (60, ("mail",))


class TestInhibition:
    rule = Inhibition.model_validate(
        {
            "source": ["severity=critical"],
            "target": ["severity!=critical"],
            "equal": ["sensor"],
        }
    )

    def test_a_graver_alert_of_the_same_sensor_inhibits(self) -> None:
        source = {"severity": "critical", "sensor": "s1"}

        assert self.rule.inhibits(source, {"severity": "warning", "sensor": "s1"})
        assert not self.rule.inhibits(source, {"severity": "warning", "sensor": "s2"})
        assert not self.rule.inhibits(source, {"severity": "critical", "sensor": "s1"})

    def test_alerts_without_the_label_have_nothing_in_common(self) -> None:
        assert not self.rule.inhibits({"severity": "critical"}, {"severity": "info"})

    def test_an_alert_that_is_a_source_is_not_inhibited(self) -> None:
        every = Inhibition.model_validate(
            {"source": ["a=~.*"], "target": ["a=~.*"], "equal": ["a"]}
        )

        assert not every.inhibits({"a": "1"}, {"a": "1"})


PAGER = ("routes", 0, "receivers")


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"routes": []}, ("routes",), "at least 1"),
        ({"routes": [route("a", match=["severity"])]}, ("routes", 0, "match", 0), "="),
        ({"routes": [route("a", match=["x=y"])]}, ("routes", 0), "must match every"),
        ({"routes": [route("a", **{"continue": True})]}, ("routes", 0), "must match"),
        ({"routes": [route("a"), route("a")]}, ("routes", 1, "name"), "twice: a"),
        (
            {"routes": [route("a", receivers=["pager"])]},
            PAGER,
            "pager must be declared",
        ),
        ({"routes": [route("a", receivers=[])]}, ("routes", 0, "receivers"), "least 1"),
        ({"routes": [route("a", group_wait="30")]}, ("routes", 0, "group_wait"), "30s"),
        (
            {"routes": [route("a", group_interval="5m", repeat_interval="1m")]},
            ("routes", 0),
            "at least group_interval",
        ),
        ({"routes": [route("a", wait="1s")]}, ("routes", 0, "wait"), "not permitted"),
        ({"receivers": ["phone", "a_file"]}, ("receivers", 1), "must not end in _file"),
        ({"receivers": ["Phone"]}, ("receivers", 0), "pattern"),
        ({"time_zone": "Europe/Bonn"}, ("time_zone",), "such as Europe/Berlin"),
        ({"resolve_timeout": "1s"}, ("resolve_timeout",), "greater than or equal"),
        ({"flapping": {"changes": 1}}, ("flapping", "changes"), "greater than"),
        ({"inhibit": [{"source": ["a=b"]}]}, ("inhibit", 0, "target"), "required"),
        ({"templates": {"titel": ""}}, ("templates", "titel"), "not permitted"),
    ],
)
def test_what_contradicts_itself_is_refused(
    changes: dict[str, Any], place: tuple[str | int, ...], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        policy(**changes)

    fault = caught.value.errors()[0]  # the one that is reported
    assert fault["loc"] == place
    assert words in fault["msg"]


def test_the_digest_changes_with_the_groups_only() -> None:
    one = policy(route("a", group_wait="1s"))
    slower = policy(route("a", group_wait="2s"))
    regrouped = policy(route("a", group_by=["location"]))

    assert one.digest == slower.digest != regrouped.digest
