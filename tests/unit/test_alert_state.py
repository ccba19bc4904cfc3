"""How an alert state after news of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from meshtasks.flows.alerts.config import Flapping
from meshtasks.flows.alerts.current import Episode, episodes
from meshtasks.flows.alerts.state import AlertState, timed_out, update
from tests.support.alerting import NOW, alert

FLAPPING = Flapping.model_validate({"changes": 4, "within": "10m"})


def clock(second: float) -> datetime:
    return datetime.fromtimestamp(NOW + second, UTC)


def heard(
    *news: dict[str, Any], every_seconds: float = 60.0, known: AlertState | None = None
) -> AlertState | None:
    """The state after news, one every minute; None when the last was old."""
    state = known
    for number, fields in enumerate(news):
        after = NOW + number * every_seconds
        published_at = NOW + fields.pop("said", number * every_seconds)
        heard = update(state, alert(**fields), published_at, after)
        if heard is None and number == len(news) - 1:
            return None
        state = heard or state
    return state


def certain(*news: dict[str, Any], every_seconds: float = 60.0) -> AlertState:
    state = heard(*news, every_seconds=every_seconds)
    assert state is not None
    return state


def test_a_new_alert_fires() -> None:
    state = certain({})

    assert state.firing
    assert state.starts_at == NOW
    assert state.labels == {
        "location": "attic",
        "severity": "warning",
        "source": "rules.damp",
    }


def test_it_began_when_it_says_so() -> None:
    assert certain({"starts_at": clock(-300)}).starts_at == NOW - 300


def test_updates_of_an_alert_that_goes_on_change_its_text_only() -> None:
    state = certain({}, {"message": "attic has 90 % humidity."})

    assert state.message == "attic has 90 % humidity."
    assert (state.firing, state.starts_at) == (True, NOW)
    assert state.changes == (NOW,)


def test_it_ends_with_the_text_of_the_resolving_update() -> None:
    state = certain({}, {"resolved": True, "message": "attic is back at 60 %."})

    assert not state.firing
    assert state.ends_at == NOW + 60
    assert state.message == "attic is back at 60 %."


def test_its_severity_does_not_change_by_its_end() -> None:
    state = certain({"severity": "critical"}, {"severity": "info", "resolved": True})

    assert state.severity == "critical"


def test_it_fires_again_after_its_end() -> None:
    state = certain({}, {"resolved": True}, {})

    assert state.firing
    assert state.ends_at is None
    assert state.starts_at == NOW + 120


def test_a_beginning_that_comes_after_its_own_end_is_old() -> None:
    episode = {"starts_at": clock(-300)}

    assert heard({**episode, "resolved": True}, episode) is None
    assert heard(episode, {**episode, "resolved": True}, episode) is None


def test_an_end_overtakes_the_beginning_of_a_later_episode_too() -> None:
    first, second = {"starts_at": clock(-300)}, {"starts_at": clock(0)}
    ended = {"resolved": True}

    assert heard(first, {**first, **ended}, {**second, **ended}, second) is None


def test_the_end_of_an_earlier_episode_does_not_end_the_latest() -> None:
    first, second = {"starts_at": clock(-300)}, {"starts_at": clock(0)}

    assert heard(first, second, {**first, "resolved": True}) is None


def test_an_end_without_a_start_ends_whatever_goes_on() -> None:
    assert not certain({"starts_at": clock(0)}, {"resolved": True}).firing


def test_a_later_beginning_with_an_earlier_start_is_believed() -> None:
    """A clock may have been set back; a false alarm is better than none."""
    later, earlier = {"starts_at": clock(0)}, {"starts_at": clock(-300)}

    assert certain(later, {**later, "resolved": True}, earlier).firing


def test_severity_rises_at_once() -> None:
    assert certain({}, {"severity": "critical", "said": 0.5}).severity == "critical"


def test_severity_falls_with_a_later_update() -> None:
    assert certain({"severity": "critical"}, {"severity": "info"}).severity == "info"


def test_severity_does_not_fall_by_an_update_that_may_have_been_overtaken() -> None:
    """The critical news came through one queue, the others through another."""
    state = certain(
        {"severity": "critical", "message": "60 °C", "said": 2},
        {"severity": "warning", "message": "40 °C", "said": 1},
    )

    assert (state.severity, state.message) == ("critical", "60 °C")


def test_an_acknowledgement_is_for_one_episode() -> None:
    state = certain({})
    acknowledged = AlertState(
        **{name: getattr(state, name) for name in state.__slots__}
        | {"acknowledged_by": "ann"}
    )

    goes_on = heard({}, known=acknowledged)
    again = heard({"resolved": True}, {}, known=acknowledged)

    assert goes_on is not None
    assert goes_on.acknowledged_by == "ann"
    assert again is not None
    assert again.acknowledged_by is None


def test_long_texts_are_cut() -> None:
    state = certain({"title": "t" * 10_000, "message": "m" * 1_000_000})

    assert len(state.title) + len(state.message) < 5_000


def test_an_alert_without_updates_times_out() -> None:
    state = timed_out(certain({}), 604_800, NOW + 604_800)

    assert not state.firing
    assert state.message == "No news of it for 7 d; taken as over."


class TestFlapping:
    on_and_off: tuple[dict[str, Any], ...] = (
        {},
        {"resolved": True},
        {},
        {"resolved": True},
    )

    def test_an_alert_that_came_and_went_too_often_flaps(self) -> None:
        thrice = certain(*(dict(each) for each in self.on_and_off[:3]))
        four_times = certain(*(dict(each) for each in self.on_and_off))

        assert thrice.phase(FLAPPING, NOW + 120) == "firing"
        assert four_times.phase(FLAPPING, NOW + 180) == "flapping"

    def test_it_settles_when_its_changes_are_long_past(self) -> None:
        state = certain(*(dict(each) for each in self.on_and_off))

        assert state.settles_at(FLAPPING, NOW + 180) == NOW + 600
        assert state.phase(FLAPPING, NOW + 600) == "resolved"
        assert state.settles_at(FLAPPING, NOW + 600) is None

    def test_slow_changes_are_no_flapping(self) -> None:
        slow = certain(*(dict(each) for each in self.on_and_off), every_seconds=400.0)

        assert slow.phase(FLAPPING, NOW + 1_200) == "resolved"

    def test_only_so_many_changes_are_remembered(self) -> None:
        news = [{"resolved": bool(number % 2)} for number in range(500)]

        assert len(certain(*news).changes) == 50


class TestEpisodes:
    def test_each_is_from_a_beginning_to_its_end(self) -> None:
        went_on = certain({}, {"resolved": True}, {})

        assert episodes(went_on) == [
            Episode(NOW, NOW + 60),
            Episode(NOW + 120, None),
        ]

    def test_an_end_whose_beginning_is_forgotten_is_none(self) -> None:
        over = certain({}, {"resolved": True})
        forgotten = replace(over, changes=(NOW - 60, *over.changes))

        assert episodes(forgotten) == [Episode(NOW, NOW + 60)]

    def test_an_alert_that_came_resolved_is_what_it_says(self) -> None:
        resolved = certain({"resolved": True})

        assert episodes(resolved) == [Episode(resolved.starts_at, resolved.ends_at)]
