"""Anomaly rules: when alerts begin and end, and what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshtasks.config.loader import load_yaml
from meshtasks.records.alert import Alert
from meshtasks.rules.config import DeviationRule, Rule, RuleBook, ThresholdRule
from meshtasks.rules.detection import WINDOW_PARTS, Sample, Series
from meshtasks.rules.evaluation import (
    CLOCK_TOLERANCE_SECONDS,
    SeriesState,
    evaluate,
)

CONFIG = Path(__file__).parents[2] / "config"
SERIES = Series("key", "temperature", "°C", "s1", "kitchen")
START = 1_795_440_000.0
NOW = START + 1e6
TEXT = {"severity": "warning", "title": "{place}", "message": "{value} {limit}"}


def threshold(**options: Any) -> ThresholdRule:
    fields = {"name": "hot", "type": "threshold", "routing_key": "sensors.#", **TEXT}
    return ThresholdRule.model_validate(fields | options)


def deviation(**options: Any) -> DeviationRule:
    fields = {
        "name": "odd",
        "type": "deviation",
        "routing_key": "sensors.#",
        "window_seconds": 1200,
        "minimum_samples": 10,
        "minimum_deviation": 2,
        **TEXT,
    }
    return DeviationRule.model_validate(fields | options)


def follow(
    rule: Rule, samples: Sequence[Sample], state: SeriesState | None = None
) -> tuple[SeriesState | None, list[Alert]]:
    """Evaluate one reading at a time; offsets from START in seconds."""
    found: list[Alert] = []
    for offset, value in samples:
        sample = (START + offset, value)
        state, alerts = evaluate([rule], SERIES, state, [sample], NOW)
        state = json.loads(json.dumps(state))  # as it comes back from the store
        found += alerts
    return state, found


def news(alerts: Sequence[Alert]) -> list[str]:
    return ["resolved" if alert.resolved else "firing" for alert in alerts]


def test_a_value_beyond_the_threshold_fires_once() -> None:
    _, alerts = follow(threshold(above=30), [(0, 29.0), (1, 31.0), (2, 32.0)])

    assert news(alerts) == ["firing"]


def test_a_title_never_begins_with_what_a_missing_tag_left_behind() -> None:
    odd = threshold(above=30, title="{tags[sensor_id]}: too hot")

    (alert,) = follow(odd, [(0, 31.0)])[1]

    assert alert.title == "too hot"


def test_a_value_on_the_threshold_is_normal() -> None:
    _, alerts = follow(threshold(above=30), [(0, 30.0)])

    assert alerts == []


def test_a_value_below_fires_too() -> None:
    _, alerts = follow(threshold(below=5), [(0, 6.0), (1, 4.0)])

    assert news(alerts) == ["firing"]


def test_an_alert_is_resolved_only_inside_by_the_hysteresis() -> None:
    rule = threshold(above=30, hysteresis=2)

    _, alerts = follow(rule, [(0, 31.0), (1, 29.0), (2, 31.0), (3, 28.0)])

    assert news(alerts) == ["firing", "resolved"]
    assert alerts[1].message == "kitchen is back at 28.0 °C."


def test_for_seconds_delays_the_alert_until_the_values_stay_outside() -> None:
    rule = threshold(above=30, for_seconds=60)

    _, early = follow(rule, [(0, 31.0), (59, 31.0)])
    _, late = follow(rule, [(0, 31.0), (59, 31.0), (60, 31.0)])

    assert early == []
    assert news(late) == ["firing"]


def test_an_alert_starts_when_the_values_left_not_when_it_fired() -> None:
    rule = threshold(above=30, for_seconds=60)

    _, alerts = follow(rule, [(10, 31.0), (100, 31.0)])

    assert alerts[0].starts_at is not None
    assert alerts[0].starts_at.timestamp() == START + 10


def test_a_value_inside_starts_for_seconds_anew() -> None:
    rule = threshold(above=30, for_seconds=60)

    _, alerts = follow(rule, [(0, 31.0), (50, 29.0), (61, 31.0), (100, 31.0)])

    assert alerts == []


def test_both_sides_may_be_watched() -> None:
    rule = threshold(below=10, above=30, hysteresis=1)

    _, alerts = follow(rule, [(0, 31.0), (1, 20.0), (2, 9.0)])

    assert news(alerts) == ["firing", "resolved", "firing"]
    assert [alert.message for alert in (alerts[0], alerts[2])] == [
        "31.0 30.0",
        "9.0 10.0",
    ]


def test_late_and_repeated_readings_change_nothing() -> None:
    rule = threshold(above=30)
    state, _ = follow(rule, [(0, 31.0), (10, 20.0)])

    again, alerts = follow(rule, [(0, 31.0), (5, 35.0), (10, 31.0)], state)

    assert alerts == []
    assert again == state


def test_readings_of_one_batch_are_taken_in_order_of_time() -> None:
    samples = [(START + 2, 20.0), (START + 1, 31.0)]

    _, alerts = evaluate([threshold(above=30)], SERIES, None, samples, NOW)

    assert news(alerts) == ["firing", "resolved"]


def test_a_clock_that_was_ahead_once_does_not_blind_the_rules() -> None:
    rule, now = threshold(above=30), START
    ahead = (START + CLOCK_TOLERANCE_SECONDS + 1, 20.0)
    state, _ = evaluate([rule], SERIES, None, [ahead], now)

    _, alerts = evaluate([rule], SERIES, state, [(START, 31.0)], now)

    assert news(alerts) == ["firing"]


def test_a_clock_that_is_always_ahead_is_followed() -> None:
    rule, now = threshold(above=30), START - 7_200
    state, _ = evaluate([rule], SERIES, None, [(START, 20.0)], now)

    state, repeated = evaluate([rule], SERIES, state, [(START, 31.0)], now)
    _, later = evaluate([rule], SERIES, state, [(START + 1, 31.0)], now)

    assert repeated == []
    assert news(later) == ["firing"]


def test_a_reading_with_a_wild_time_makes_no_rule_forget_what_is_usual() -> None:
    rule = deviation()
    usual = [(second, 20.0 + second % 2 / 10) for second in range(0, 600, 10)]
    state, _ = follow(rule, usual)
    now = START + 600

    state, _ = evaluate([rule], SERIES, state, [(now + 86_000, 20.0)], now)
    _, alerts = evaluate([rule], SERIES, state, [(now + 10, 90.0)], now + 10)

    assert news(alerts) == ["firing"]


@pytest.mark.parametrize("value", [1.7e308, -1.7e308])
def test_values_near_the_largest_there_are_raise_nothing_in_a_deviation_rule(
    value: float,
) -> None:
    samples = [(second, value) for second in range(0, 600, 10)]

    _, alerts = follow(deviation(), samples)

    assert news(alerts) == []


def test_an_idle_threshold_rule_remembers_only_the_time() -> None:
    state, _ = follow(threshold(above=30), [(0, 20.0)])

    assert state == {"seen": START, "rules": {}}


def test_the_same_news_has_the_same_id_and_fingerprint() -> None:
    _, alerts = follow(threshold(above=30), [(0, 31.0), (1, 20.0)])
    _, again = follow(threshold(above=30), [(0, 31.0), (1, 20.0)])

    assert [alert.event_id for alert in alerts] == [alert.event_id for alert in again]


def test_firing_and_resolved_are_one_alert_and_two_pieces_of_news() -> None:
    _, (firing, resolved) = follow(threshold(above=30), [(0, 31.0), (1, 20.0)])

    assert firing.fingerprint == resolved.fingerprint
    assert firing.event_id != resolved.event_id


def test_an_alert_says_what_where_and_how_bad() -> None:
    rule = threshold(
        above=30,
        severity="critical",
        title="{place} is hot",
        message="{sensor_id}: {value:.1f} {unit}, more than {limit:g}",
    )

    _, (alert,) = follow(rule, [(0, 31.25)])

    assert alert.title == "kitchen is hot"
    assert alert.message == "s1: 31.2 °C, more than 30"
    assert alert.routing_key == "alerts.critical.rules.hot"
    assert alert.labels == {
        "rule": "hot",
        "kind": "temperature",
        "sensor_id": "s1",
        "location": "kitchen",
    }


# --- deviation from the series' own past


def quiet(until: float, step: float = 10) -> list[Sample]:
    """20 °C ± 0.1 at every step."""
    count = int(until / step)
    return [(i * step, 20.0 + (0.1 if i % 2 else -0.1)) for i in range(count)]


def test_a_value_far_from_the_past_fires_and_a_usual_one_resolves() -> None:
    _, alerts = follow(deviation(), [*quiet(600), (600, 25.0), (610, 20.0)])

    assert news(alerts) == ["firing", "resolved"]


def test_nothing_is_unusual_before_there_are_enough_samples() -> None:
    _, alerts = follow(deviation(minimum_samples=100), [*quiet(600), (600, 25.0)])

    assert alerts == []


def test_a_quiet_sensor_may_move_by_the_minimum_deviation() -> None:
    _, alerts = follow(deviation(), [*quiet(600), (600, 21.9)])

    assert alerts == []


def test_a_noisy_sensor_may_move_by_its_standard_deviations() -> None:
    noisy = [(i * 10.0, 20.0 + (3 if i % 2 else -3)) for i in range(60)]

    _, usual = follow(deviation(z_score=4), [*noisy, (600, 31.0)])
    _, unusual = follow(deviation(z_score=4), [*noisy, (600, 33.0)])

    assert usual == []
    assert news(unusual) == ["firing"]


def test_a_level_that_stays_becomes_usual() -> None:
    stays = [(600 + i * 10.0, 26.0) for i in range(130)]

    _, alerts = follow(deviation(), [*quiet(600), *stays])

    assert news(alerts) == ["firing", "resolved"]


def test_the_state_is_bounded_however_many_readings_there_are() -> None:
    state, _ = follow(deviation(), quiet(6_000, step=2))

    assert state is not None
    assert len(state["rules"]["odd"]["parts"]) == WINDOW_PARTS + 1


values = st.floats(min_value=-50, max_value=80).map(lambda value: round(value, 1))
steps = st.lists(st.tuples(st.floats(0, 300), values), min_size=1, max_size=60)


@given(steps, st.data())
def test_it_makes_no_difference_which_readings_came_in_one_batch(
    moves: list[tuple[float, float]], data: st.DataObject
) -> None:
    rules: list[Rule] = [
        threshold(above=30, below=0, hysteresis=3, for_seconds=120),
        # Odd numbers, so that no value lies exactly on the edge of the band.
        deviation(minimum_samples=3, z_score=2.517, minimum_deviation=2.0371),
    ]
    samples, time = [], START
    for seconds, value in moves:
        time += seconds
        samples.append((time, value))
    cut = data.draw(st.integers(0, len(samples)))

    one, singly = None, []
    for sample in samples:
        one, alerts = evaluate(rules, SERIES, one, [sample], NOW)
        singly += alerts
    two, together = None, []
    for part in filter(None, (samples[:cut], samples[cut:])):
        two, alerts = evaluate(rules, SERIES, two, part, NOW)
        together += alerts

    assert sorted(a.event_id for a in together) == sorted(a.event_id for a in singly)
    assert one is not None
    assert two is not None
    assert one["seen"] == two["seen"]


# --- config/rules.yaml


def test_the_rules_that_come_with_the_mesh_are_valid() -> None:
    book = load_yaml(CONFIG / "rules.yaml", RuleBook)

    names = {rule.name for rule in book.matching("sensors.temperature.attic", "attic")}
    assert names == {"overheating", "unusual-temperature"}


def test_a_rule_may_be_narrowed_to_sensors_of_a_gateway() -> None:
    rule = threshold(above=1, sensors=["freezer*", "fridge"])
    book = RuleBook(rules=(rule,))

    assert book.matching("sensors.temperature.gateway", "freezer-2") == (rule,)
    assert book.matching("sensors.temperature.gateway", "oven") == ()
    assert book.matching("metrics.system.gateway", "fridge") == ()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "expected above, below or both"),
        ({"above": 10, "below": 9, "hysteresis": 1}, "no value lies inside"),
        ({"above": 1, "title": "{nonsense}"}, r"\{nonsense\} is not known"),
        ({"above": 1, "title": "{value.__class__}"}, "is not known"),
        ({"above": 1, "title": "{sensor_id:.1f}"}, "Unknown format code"),
        ({"above": float("nan")}, "finite"),
        ({"above": 1, "for_seconds": -1}, "greater than or equal to 0"),
        ({"above": 1, "name": "No Spaces"}, "pattern"),
        ({"above": 1, "severity": "bad"}, "'info', 'warning' or 'critical'"),
        ({"above": 1, "upper": 1}, "Extra inputs"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        threshold(**options)


def test_two_rules_of_one_name_are_refused() -> None:
    rule = threshold(above=1)

    with pytest.raises(ValidationError, match="rule names must be unique; twice: hot"):
        RuleBook(rules=(rule, rule))
