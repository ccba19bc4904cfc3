"""Why an alert is not told at present."""

from __future__ import annotations

from typing import Any

from meshtasks.flows.alerts.decision import Mute, Muting
from meshtasks.flows.alerts.state import AlertState, Silence, update
from tests.support.alerting import NOW, alert, policy

INHIBIT = {
    "source": ["severity=critical"],
    "target": ["severity!=critical"],
    "equal": ["location"],
}
#: 13:20 UTC is within.
QUIET = {"from": "13:00", "to": "14:00"}
QUIET_UNTIL = NOW + 40 * 60


def state(**changes: Any) -> AlertState:
    state = update(None, alert(**changes), NOW, NOW)
    assert state is not None
    return state


def silence(*matchers: str, starts: float = -60, ends: float = 60) -> Silence:
    return Silence("s", matchers, NOW + starts, NOW + ends, "ann", "painting")


WARNING = state()
CRITICAL = state(severity="critical", source="rules.fire")


def test_an_alert_that_nothing_mutes() -> None:
    muting = Muting(policy(), [silence("location=cellar")], [CRITICAL], NOW)

    assert muting.of(WARNING) is None


def test_a_silence_mutes_what_matches_while_it_lasts() -> None:
    silences = [silence("location=attic"), silence("severity=warning", ends=90)]
    muting = Muting(policy(), silences, [], NOW)

    assert muting.of(WARNING) == Mute("silenced", NOW + 90, keeps_pending=False)


def test_a_silence_may_mute_a_critical_alert() -> None:
    assert Muting(policy(), [silence("location=attic")], [], NOW).of(CRITICAL)


def test_a_silence_mutes_neither_before_nor_after() -> None:
    later = silence("location=attic", starts=1)
    ended = silence("location=attic", ends=0)

    assert Muting(policy(), [later, ended], [], NOW).of(WARNING) is None


def test_a_graver_alert_inhibits_while_it_fires() -> None:
    inhibiting = policy(inhibit=[INHIBIT])

    assert Muting(inhibiting, [], [CRITICAL], NOW).of(WARNING) == Mute(
        "inhibited", None, keeps_pending=False
    )
    assert Muting(inhibiting, [], [CRITICAL], NOW).of(CRITICAL) is None
    assert Muting(inhibiting, [], [], NOW).of(WARNING) is None


def test_quiet_hours_hold_back_and_keep_pending() -> None:
    muting = Muting(policy(quiet_hours=QUIET), [], [], NOW)

    assert muting.of(WARNING) == Mute("quiet hours", QUIET_UNTIL, keeps_pending=True)


def test_quiet_hours_never_hold_back_a_critical_alert() -> None:
    assert Muting(policy(quiet_hours=QUIET), [], [], NOW).of(CRITICAL) is None


def test_quiet_hours_are_those_of_the_time_zone() -> None:
    berlin = policy(quiet_hours=QUIET, time_zone="Europe/Berlin")  # 14:20 there

    assert Muting(berlin, [], [], NOW).of(WARNING) is None
