"""The texts of notifications: what a phone shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshtasks.flows.alerts.config import Flapping, TemplateTexts
from meshtasks.flows.alerts.rendering import (
    BadTemplate,
    Notification,
    Renderer,
    template_context,
)
from meshtasks.flows.alerts.state import AlertGroup, AlertState, update
from tests.support.alerting import NOW, alert, policy

ZONE = policy().zone
GROUP = AlertGroup("g", "all", {"source": "rules.damp"}, "mesh-g")
FLAPPING = Flapping()
LATER = NOW + 25 * 60


def firing(**changes: Any) -> AlertState:
    state = update(None, alert(**changes), NOW, NOW)
    assert state is not None
    return state


def over(**changes: Any) -> AlertState:
    ended = alert(resolved=True, message="attic is back at 60 %.", **changes)
    state = update(firing(**changes), ended, LATER, LATER)
    assert state is not None
    return state


def flapping(**changes: Any) -> AlertState:
    return replace(firing(**changes), changes=tuple(NOW + n for n in range(6)))


def render(
    *alerts: AlertState, repeats: bool = False, now: float = LATER, **texts: str
) -> Notification:
    context = template_context(GROUP, alerts, FLAPPING, ZONE, now, repeats=repeats)
    return Renderer(TemplateTexts(**texts)).render(context, GROUP.tag)


def test_an_alert() -> None:
    assert render(firing()) == Notification(
        title="attic is damp",
        body="attic has 85 % humidity.\nSince 13:20",
        priority=4,
        tags=("warning", "warning"),
        tag="mesh-g",
        severity="warning",
        resolved=False,
    )


def test_its_end() -> None:
    assert render(over()) == Notification(
        title="Resolved: attic is damp",
        body="attic is back at 60 %.\n13:20 to 13:45 (25 min)",
        priority=2,
        tags=("white_check_mark", "warning"),
        tag="mesh-g",
        severity="warning",
        resolved=True,
    )


def test_a_reminder_says_for_how_long() -> None:
    made = render(firing(), repeats=True, now=NOW + 4 * 3_600)

    assert made.title == "Still: attic is damp"
    assert made.body == "attic has 85 % humidity.\nSince 13:20 (4 h)"


def test_a_flapping_alert() -> None:
    made = render(flapping(), now=NOW + 10)

    assert made.title == "Unstable: attic is damp"
    assert "6 changes lately" in made.body
    assert made.tags[0] == "twisted_rightwards_arrows"


def test_several_alerts_the_gravest_first() -> None:
    made = render(
        over(title="bath is damp"),
        firing(title="attic is damp"),
        firing(title="cellar is wet", severity="critical"),
        flapping(title="hall is damp"),
        now=NOW + 10,
    )

    assert made.title == "cellar is wet and 2 more"
    assert made.body.splitlines() == [
        "cellar is wet (since 13:20)",
        "attic is damp (since 13:20)",
        "Unstable: hall is damp (6 changes lately)",
        "Resolved: bath is damp (13:20, 25 min)",
    ]
    assert made.priority == 5


def test_many_alerts_are_summed_up() -> None:
    made = render(*(firing(title=f"room {number}") for number in range(20)))

    assert made.title == "room 0 and 19 more"
    assert made.body.endswith("\nand 12 more")


@pytest.mark.parametrize(
    ("severity", "priority", "emoji", "priority_of_the_end"),
    [
        ("info", 3, "information_source", 2),
        ("warning", 4, "warning", 2),
        ("critical", 5, "rotating_light", 3),
    ],
)
def test_priority_and_emoji_go_by_severity(
    severity: str, priority: int, emoji: str, priority_of_the_end: int
) -> None:
    made = render(firing(severity=severity))

    assert (made.priority, made.tags) == (priority, (emoji, severity))
    assert render(over(severity=severity)).priority == priority_of_the_end


def test_an_acknowledged_alert_says_so_among_others() -> None:
    known = replace(firing(), acknowledged_by="ann")

    assert "attic is damp (since 13:20, acknowledged)" in render(known, firing()).body


def test_times_of_other_days_have_a_date() -> None:
    assert render(firing(), now=NOW + 86_400).body.endswith("Since 23 Nov 13:20")


def test_a_title_is_one_line_and_a_text_is_short() -> None:
    made = render(firing(title="a\nb " + "c" * 1_000, message="ü" * 4_000))

    assert "\n" not in made.title
    assert len(made.title) <= 161
    assert len(made.body.encode()) <= 2_000


def test_an_alert_without_a_message_shows_its_title() -> None:
    assert render(firing(message="")).body.startswith("attic is damp\n")


def test_what_an_alert_says_is_never_a_template() -> None:
    assert render(firing(title="{{ 1 + 1 }} <b>")).title == "{{ 1 + 1 }} <b>"


class TestOwnTemplates:
    def test_they_take_the_place_of_the_built_in_ones(self) -> None:
        made = render(
            firing(),
            title="{{ alerts[0].labels.location }}: {{ alerts[0].title }}",
            body="{{ group.source }} since {{ alerts[0].starts_at | clock }}",
            priority="{{ 1 if status == 'resolved' else 2 }}",
            tags="house,{{ route }}",
        )

        assert made.title == "attic: attic is damp"
        assert made.body == "rules.damp since 13:20"
        assert (made.priority, made.tags) == (2, ("house", "all"))

    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [
            ("title", "{{ alerts[0].titel }}", "no attribute 'titel'"),
            ("title", "{{ alert.title }}", "'alert' is undefined"),
            ("title", "{% if %}", "Expected an expression"),
            ("title", "  ", "it is empty"),
            ("body", "{{ alerts | nope }}", "No filter named 'nope'"),
            ("body", "{{ going_on[0].title }}", "no element 0"),
            ("priority", "high", "expected 1 to 5, got 'high'"),
            ("priority", "{{ 1 / 0 }}", "division by zero"),
            ("body", "{{ alerts.__class__.__mro__ }}", "unsafe"),
        ],
    )
    def test_bad_ones_are_refused(self, name: str, text: str, reason: str) -> None:
        with pytest.raises(BadTemplate, match=f"^template {name}: .*{reason}"):
            Renderer(TemplateTexts(**{name: text}))

    def test_one_that_fails_on_an_alert_gives_way_to_the_built_in_one(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = render(firing(), title="{{ alerts[0].labels.floor }}")

        assert made.title == "attic is damp"
        assert "Template title of alerts.yaml failed" in caplog.text
