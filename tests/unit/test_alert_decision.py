"""What a group has to tell, and when to look at it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshtasks.flows.alerts.config import Flapping, Route
from meshtasks.flows.alerts.decision import (
    Decision,
    Group,
    Member,
    Told,
    decide,
    failed,
    reviewed,
    taken,
)
from meshtasks.flows.alerts.muting import Mute
from meshtasks.flows.alerts.standing import Phase, Standing, hear
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
GROUP = Group("g", "all", {}, "mesh-g", news_at=NOW)
UNTOLD = Told()
FIRING = Told("firing", "warning", at=NOW)
TOLD_GROUP = replace(GROUP, news_at=None, notified_at=NOW)

HOUR = 3_600.0


def firing(name: str = "a", **changes: Any) -> Standing:
    standing = hear(None, alert(fingerprint=name, **changes), NOW, NOW)
    assert standing is not None
    return standing


def over(name: str = "a") -> Standing:
    return replace(firing(name), firing=False, ends_at=NOW)


def member(standing: Standing, told: Told = UNTOLD, mute: Mute | None = None) -> Member:
    return Member(standing, told, mute)


def at(second: float, group: Group, *members: Member) -> Decision:
    return decide(group, members, ROUTE, FLAPPING, NOW + second)


def wake_in(decision: Decision, second: float) -> float | None:
    """Seconds from then on."""
    return None if decision.wake_at is None else decision.wake_at - NOW - second


class TestNews:
    def test_a_group_is_gathered_before_it_is_first_told(self) -> None:
        early = at(10, GROUP, member(firing()))
        due = at(30, GROUP, member(firing()), member(firing("b")))

        assert (early.tell, wake_in(early, 10)) == ((), 20)
        assert due.tell == ("a", "b")
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
        assert at(300, group, *members).tell == ("a", "b")

    def test_what_is_told_already_is_no_news(self) -> None:
        decision = at(300, TOLD_GROUP, member(firing(), FIRING))

        assert decision.tell == ()
        assert not decision.has_news

    def test_an_end_is_news_to_who_was_told_of_the_beginning(self) -> None:
        decision = at(300, TOLD_GROUP, member(over(), FIRING))

        assert decision.has_news
        assert at(400, replace(GROUP, notified_at=NOW), member(over(), FIRING)).tell

    def test_an_alert_that_was_over_before_it_was_told_is_forgotten(self) -> None:
        decision = at(30, GROUP, member(over()))

        assert (decision.tell, decision.forget) == ((), ("a",))
        assert reviewed(GROUP, decision, NOW + 30).news_at is None

    def test_unless_receivers_failed_to_take_it(self) -> None:
        assert at(30, GROUP, member(over(), Told(owed=True))).tell == ("a",)

    def test_a_graver_severity_is_news_and_a_lesser_one_is_not(self) -> None:
        critical, info = firing(severity="critical"), firing(severity="info")

        assert at(400, TOLD_GROUP, member(critical, FIRING)).has_news
        assert not at(400, TOLD_GROUP, member(info, FIRING)).has_news

    def test_news_come_with_everything_that_goes_on(self) -> None:
        group = replace(GROUP, notified_at=NOW - HOUR)
        members = (
            member(firing("old"), FIRING),
            member(over("gone"), FIRING),
            member(firing("new")),
        )

        assert set(at(30, group, *members).tell) == {"old", "gone", "new"}


class TestReminders:
    def test_an_alert_that_goes_on_is_told_again(self) -> None:
        early = at(HOUR, TOLD_GROUP, member(firing(), FIRING))
        due = at(4 * HOUR, TOLD_GROUP, member(firing(), FIRING))

        assert (early.tell, wake_in(early, HOUR)) == ((), 3 * HOUR)
        assert due.tell == ("a",)
        assert due.repeats

    def test_an_acknowledged_alert_is_not(self) -> None:
        known = replace(firing(), acknowledged_by="ann")
        decision = at(4 * HOUR, TOLD_GROUP, member(known, FIRING))

        assert (decision.tell, decision.wake_at) == ((), None)

    def test_its_end_is_told_all_the_same(self) -> None:
        known = replace(over(), acknowledged_by="ann")

        assert at(HOUR, replace(GROUP, notified_at=NOW), member(known, FIRING)).tell

    def test_one_that_is_due_brings_the_others_of_its_group(self) -> None:
        recent = replace(FIRING, at=NOW + HOUR)
        members = member(firing(), FIRING), member(firing("b"), recent)

        assert at(4 * HOUR, TOLD_GROUP, *members).tell == ("a", "b")


class TestMuting:
    silence = Mute("silenced", NOW + HOUR, owes=False)
    night = Mute("quiet hours", NOW + HOUR, owes=True)
    inhibition = Mute("inhibited", None, owes=False)

    def test_a_muted_alert_is_not_told_until_the_muting_ends(self) -> None:
        muted = at(30, GROUP, member(firing(), mute=self.silence))

        assert (muted.tell, wake_in(muted, 30)) == ((), HOUR - 30)
        assert at(HOUR, GROUP, member(firing())).tell == ("a",)

    def test_an_end_without_a_known_time_needs_no_waking(self) -> None:
        assert at(30, GROUP, member(firing(), mute=self.inhibition)).wake_at is None

    def test_it_does_not_mute_the_others_of_its_group(self) -> None:
        members = member(firing(), mute=self.silence), member(firing("b"))

        assert at(30, GROUP, *members).tell == ("b",)

    def test_what_begins_and_ends_while_silenced_is_never_told(self) -> None:
        decision = at(30, GROUP, member(firing(), mute=self.silence))

        assert decision.owe == ()
        assert at(60, GROUP, member(over(), mute=self.silence)).forget == ("a",)

    def test_what_begins_in_quiet_hours_is_owed(self) -> None:
        early = at(10, GROUP, member(firing(), mute=self.night))
        due = at(30, GROUP, member(firing(), mute=self.night))

        assert (early.owe, wake_in(early, 10)) == ((), 20)
        assert due.owe == ("a",)

    def test_what_began_and_ended_in_them_is_told_afterwards(self) -> None:
        owed = Told(owed=True)

        assert at(60, GROUP, member(over(), owed, self.night)).forget == ()
        assert at(HOUR, GROUP, member(over(), owed)).tell == ("a",)

    def test_a_muted_reminder_waits_too(self) -> None:
        mute = Mute("quiet hours", NOW + 8 * HOUR, owes=True)
        decision = at(4 * HOUR, TOLD_GROUP, member(firing(), FIRING, mute))

        assert (decision.tell, wake_in(decision, 4 * HOUR)) == ((), 4 * HOUR)


class TestFailures:
    def test_a_failed_group_is_left_alone_until_it_is_tried_again(self) -> None:
        group = failed(GROUP, NOW + 90)

        assert wake_in(at(60, group, member(firing())), 60) == 30
        assert at(90, group, member(firing())).tell == ("a",)

    def test_failures_add_up_until_a_receiver_takes_it(self) -> None:
        twice = failed(failed(GROUP, NOW + 10), NOW + 30)

        assert twice.failures == 2
        assert taken(twice, NOW + 40) == replace(
            GROUP, news_at=None, notified_at=NOW + 40
        )


class TestFlapping:
    changes = (NOW, NOW + 10, NOW + 20, NOW + 30)
    group = replace(GROUP, notified_at=NOW - HOUR)

    def test_it_is_told_once(self) -> None:
        flapping = replace(firing(), changes=self.changes)
        told = Told("flapping", "warning", at=NOW + 40)

        assert at(40, self.group, member(flapping, FIRING)).tell == ("a",)
        assert not at(50, TOLD_GROUP, member(flapping, told)).has_news

    def test_it_is_told_again_when_it_has_settled(self) -> None:
        flapping = replace(over(), changes=self.changes)
        told = Told("flapping", "warning", at=NOW + 40)
        meanwhile = at(50, TOLD_GROUP, member(flapping, told))
        settled = at(600, TOLD_GROUP, member(flapping, told))

        assert wake_in(meanwhile, 50) == 550
        assert settled.has_news
        assert reviewed(TOLD_GROUP, settled, NOW + 600).news_at == NOW + 600


PHASES: st.SearchStrategy[Phase | None] = st.sampled_from(
    [None, "firing", "flapping", "resolved"]
)
MUTES = st.sampled_from(
    [
        None,
        Mute("silenced", NOW + 7 * HOUR, owes=False),
        Mute("quiet hours", NOW + 8 * HOUR, owes=True),
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
            Told(draw(PHASES), "warning", NOW, draw(st.booleans())),
            draw(MUTES),
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@given(members(), st.floats(0, 6 * HOUR), st.booleans())
def test_news_are_told_owed_or_looked_at_again(
    crowd: list[Member], second: float, is_failing: bool
) -> None:
    """Whatever the state of a group, no news is left lying."""
    group = failed(GROUP, NOW + 90) if is_failing else GROUP
    decision = at(second, group, *crowd)

    if decision.has_news and not decision.tell:
        assert decision.wake_at is not None
        assert decision.wake_at > NOW + second
    assert not set(decision.tell) & set(decision.forget)
    audible = {each.alert.fingerprint for each in crowd if each.mute is None}
    assert set(decision.tell) <= audible
