"""What a group has to tell, and when to look at it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshtasks.flows.alerts.config import Flapping, Route
from meshtasks.flows.alerts.decision import Decision, Member, Mute, decide, reviewed
from meshtasks.flows.alerts.state import (
    AlertGroup,
    AlertState,
    NotificationState,
    Phase,
    update,
)
from tests.support.alerting import NOW, alert

ROUTE = Route.model_validate(
    {
        "name": "all",
        "receivers": ["phone"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "4h",
    }
)
FLAPPING = Flapping.model_validate({"changes": 4, "within": "10m"})
GROUP = AlertGroup("g", "all", {}, "mesh-g", news_at=NOW)
UNKNOWN = NotificationState()
FIRING = NotificationState("firing", "warning", at=NOW)
NOTIFIED_GROUP = replace(GROUP, news_at=None, notified_at=NOW)

HOUR = 3_600.0


def firing(name: str = "a", **changes: Any) -> AlertState:
    state = update(None, alert(fingerprint=name, **changes), NOW, NOW)
    assert state is not None
    return state


def over(name: str = "a") -> AlertState:
    return replace(firing(name), firing=False, ends_at=NOW)


def member(
    state: AlertState, notified: NotificationState = UNKNOWN, mute: Mute | None = None
) -> Member:
    return Member(state, notified, mute)


def at(second: float, group: AlertGroup, *members: Member) -> Decision:
    return decide(group, members, ROUTE, FLAPPING, NOW + second)


def wake_in(decision: Decision, second: float) -> float | None:
    """Seconds from then on."""
    return None if decision.wake_at is None else decision.wake_at - NOW - second


class TestNews:
    def test_a_group_is_gathered_before_its_first_notification(self) -> None:
        early = at(10, GROUP, member(firing()))
        due = at(30, GROUP, member(firing()), member(firing("b")))

        assert (early.notify, wake_in(early, 10)) == ((), 20)
        assert due.notify == ("a", "b")
        assert not due.repeats

    def test_a_group_that_nobody_looked_at_is_gathered_from_now_on(self) -> None:
        fresh = replace(GROUP, news_at=None)
        decision = at(10, fresh, member(firing()))

        assert wake_in(decision, 10) == 30
        assert reviewed(fresh, decision, NOW + 10).news_at == NOW + 10

    def test_the_next_notification_waits_for_the_interval(self) -> None:
        group = replace(GROUP, notified_at=NOW, news_at=NOW + 60)
        members = member(firing(), FIRING), member(firing("b"))

        assert wake_in(at(100, group, *members), 100) == 200
        assert at(300, group, *members).notify == ("a", "b")

    def test_what_was_notified_already_is_no_news(self) -> None:
        decision = at(300, NOTIFIED_GROUP, member(firing(), FIRING))

        assert decision.notify == ()
        assert not decision.has_news

    def test_an_end_is_news_if_the_beginning_was_notified(self) -> None:
        decision = at(300, NOTIFIED_GROUP, member(over(), FIRING))

        assert decision.has_news
        assert at(400, replace(GROUP, notified_at=NOW), member(over(), FIRING)).notify

    def test_an_alert_that_was_over_before_its_notification_is_dropped(self) -> None:
        decision = at(30, GROUP, member(over()))

        assert (decision.notify, decision.drop) == ((), ("a",))
        assert reviewed(GROUP, decision, NOW + 30).news_at is None

    def test_unless_receivers_failed_to_take_it(self) -> None:
        assert at(
            30, GROUP, member(over(), NotificationState(pending=True))
        ).notify == ("a",)

    def test_a_graver_severity_is_news_and_a_lesser_one_is_not(self) -> None:
        critical, info = firing(severity="critical"), firing(severity="info")

        assert at(400, NOTIFIED_GROUP, member(critical, FIRING)).has_news
        assert not at(400, NOTIFIED_GROUP, member(info, FIRING)).has_news

    def test_news_come_with_everything_that_goes_on(self) -> None:
        group = replace(GROUP, notified_at=NOW - HOUR)
        members = (
            member(firing("old"), FIRING),
            member(over("gone"), FIRING),
            member(firing("new")),
        )

        assert set(at(30, group, *members).notify) == {"old", "gone", "new"}


class TestReminders:
    def test_an_alert_that_goes_on_is_notified_again(self) -> None:
        early = at(HOUR, NOTIFIED_GROUP, member(firing(), FIRING))
        due = at(4 * HOUR, NOTIFIED_GROUP, member(firing(), FIRING))

        assert (early.notify, wake_in(early, HOUR)) == ((), 3 * HOUR)
        assert due.notify == ("a",)
        assert due.repeats

    def test_an_acknowledged_alert_is_not(self) -> None:
        known = replace(firing(), acknowledged_by="ann")
        decision = at(4 * HOUR, NOTIFIED_GROUP, member(known, FIRING))

        assert (decision.notify, decision.wake_at) == ((), None)

    def test_its_end_is_notified_all_the_same(self) -> None:
        known = replace(over(), acknowledged_by="ann")

        assert at(HOUR, replace(GROUP, notified_at=NOW), member(known, FIRING)).notify

    def test_one_that_is_due_brings_the_others_of_its_group(self) -> None:
        recent = replace(FIRING, at=NOW + HOUR)
        members = member(firing(), FIRING), member(firing("b"), recent)

        assert at(4 * HOUR, NOTIFIED_GROUP, *members).notify == ("a", "b")


class TestMuting:
    silence = Mute("silenced", NOW + HOUR, keeps_pending=False)
    night = Mute("quiet hours", NOW + HOUR, keeps_pending=True)
    inhibition = Mute("inhibited", None, keeps_pending=False)

    def test_a_muted_alert_is_not_notified_until_the_muting_ends(self) -> None:
        muted = at(30, GROUP, member(firing(), mute=self.silence))

        assert (muted.notify, wake_in(muted, 30)) == ((), HOUR - 30)
        assert at(HOUR, GROUP, member(firing())).notify == ("a",)

    def test_an_end_without_a_known_time_needs_no_waking(self) -> None:
        assert at(30, GROUP, member(firing(), mute=self.inhibition)).wake_at is None

    def test_it_does_not_mute_the_others_of_its_group(self) -> None:
        members = member(firing(), mute=self.silence), member(firing("b"))

        assert at(30, GROUP, *members).notify == ("b",)

    def test_what_begins_and_ends_while_silenced_is_never_notified(self) -> None:
        decision = at(30, GROUP, member(firing(), mute=self.silence))

        assert decision.pending == ()
        assert at(60, GROUP, member(over(), mute=self.silence)).drop == ("a",)

    def test_what_begins_in_quiet_hours_is_pending(self) -> None:
        early = at(10, GROUP, member(firing(), mute=self.night))
        due = at(30, GROUP, member(firing(), mute=self.night))

        assert (early.pending, wake_in(early, 10)) == ((), 20)
        assert due.pending == ("a",)

    def test_what_began_and_ended_in_them_is_notified_afterwards(self) -> None:
        pending = NotificationState(pending=True)

        assert at(60, GROUP, member(over(), pending, self.night)).drop == ()
        assert at(HOUR, GROUP, member(over(), pending)).notify == ("a",)

    def test_a_muted_reminder_waits_too(self) -> None:
        mute = Mute("quiet hours", NOW + 8 * HOUR, keeps_pending=True)
        decision = at(4 * HOUR, NOTIFIED_GROUP, member(firing(), FIRING, mute))

        assert (decision.notify, wake_in(decision, 4 * HOUR)) == ((), 4 * HOUR)


class TestFailures:
    def test_a_failed_group_waits_until_it_is_retried(self) -> None:
        group = GROUP.failed(NOW + 90)

        assert wake_in(at(60, group, member(firing())), 60) == 30
        assert at(90, group, member(firing())).notify == ("a",)

    def test_failures_add_up_until_a_receiver_takes_it(self) -> None:
        twice = GROUP.failed(NOW + 10).failed(NOW + 30)

        assert twice.failures == 2
        assert twice.delivered(NOW + 40) == replace(
            GROUP, news_at=None, notified_at=NOW + 40
        )


class TestFlapping:
    changes = (NOW, NOW + 10, NOW + 20, NOW + 30)
    group = replace(GROUP, notified_at=NOW - HOUR)

    def test_it_is_notified_once(self) -> None:
        flapping = replace(firing(), changes=self.changes)
        told = NotificationState("flapping", "warning", at=NOW + 40)

        assert at(40, self.group, member(flapping, FIRING)).notify == ("a",)
        assert not at(50, NOTIFIED_GROUP, member(flapping, told)).has_news

    def test_it_is_notified_again_when_it_has_settled(self) -> None:
        flapping = replace(over(), changes=self.changes)
        told = NotificationState("flapping", "warning", at=NOW + 40)
        meanwhile = at(50, NOTIFIED_GROUP, member(flapping, told))
        settled = at(600, NOTIFIED_GROUP, member(flapping, told))

        assert wake_in(meanwhile, 50) == 550
        assert settled.has_news
        assert reviewed(NOTIFIED_GROUP, settled, NOW + 600).news_at == NOW + 600


PHASES: st.SearchStrategy[Phase | None] = st.sampled_from(
    [None, "firing", "flapping", "resolved"]
)
MUTES = st.sampled_from(
    [
        None,
        Mute("silenced", NOW + 7 * HOUR, keeps_pending=False),
        Mute("quiet hours", NOW + 8 * HOUR, keeps_pending=True),
    ]
)


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    return [
        Member(
            replace(
                firing(f"a{number}"),
                firing=draw(st.booleans()),
                changes=tuple(NOW + 10 * n for n in range(draw(st.integers(1, 6)))),
                acknowledged_by=draw(st.sampled_from([None, "ann"])),
            ),
            NotificationState(draw(PHASES), "warning", NOW, draw(st.booleans())),
            draw(MUTES),
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@given(members(), st.floats(0, 6 * HOUR), st.booleans())
def test_news_are_notified_pending_or_looked_at_again(
    crowd: list[Member], second: float, is_failing: bool
) -> None:
    """Whatever the state of a group, no news is left lying."""
    group = GROUP.failed(NOW + 90) if is_failing else GROUP
    decision = at(second, group, *crowd)

    if decision.has_news and not decision.notify:
        assert decision.wake_at is not None
        assert decision.wake_at > NOW + second
    assert not set(decision.notify) & set(decision.drop)
    audible = {each.alert.fingerprint for each in crowd if each.mute is None}
    assert set(decision.notify) <= audible
