"""What mutes the alerts of a sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from meshtasks.config.settings import Settings
from meshtasks.errors import Transient
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import Silence
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.sensor_facts import Mute, clock, labels_of
from meshtasks.rules.config import RULES, Rule
from meshtasks.state.sensor_activity import Sensor


def mutes_of(
    settings: Settings, key: tuple[str, str], sensor: Sensor | None, now: float
) -> Iterator[Mute]:
    """What mutes alerts of this sensor, those that go on and those to come, and did.

    Args:
        key: its routing key and id.
        now: epoch seconds.
    """
    with closing(Sinks(settings)) as sinks:
        store = sinks[ALERT_STATE]
        if not store.exists():
            return
        try:
            with store.tables() as tables:
                silences = tables.silences()
                alerts = current_alerts(tables, settings.read(ALERTS), now, every=True)
        except Transient:
            return  # whoever reads the state next says so
    own = labels_of(key, sensor)
    rules = settings.read(RULES).matching(*key)
    for silence in silences:
        by = _by(silence, now)
        sentences = [
            f'The alert "{each.alert.title}" '
            f"{'goes on' if each.alert.firing else 'went on'} since "
            f"{clock(each.alert.starts_at, now)}, and nobody is told: it is muted by "
            f"{by}."
            for each in alerts
            if _is_about(each, own) and _mutes(silence, each, now)
        ]
        if not sentences and (muted := _muted(silence, rules, own)):
            are = "is" if len(muted) == 1 else "are"
            sentences = [
                f"Of the rules that watch it {', '.join(muted)} {are} silenced by {by}."
            ]
        for sentence in sentences:
            yield Mute(sentence, silence.starts_at, silence.ends_at)


def _by(silence: Silence, now: float) -> str:
    over = "until" if silence.ends_at > now else "which ended"
    comment = f", {silence.comment!r}" * bool(silence.comment)
    return (
        f"a silence that {silence.created_by} made at {clock(silence.starts_at, now)} "
        f"({' '.join(silence.matchers)}{comment}), {over} "
        f"{clock(silence.ends_at, now)}"
    )


def _is_about(current: CurrentAlert, own: Mapping[str, str]) -> bool:
    labels = current.alert.own_labels
    return "sensor_id" in labels and all(
        labels.get(name, value) == value for name, value in own.items()
    )


def _mutes(silence: Silence, current: CurrentAlert, now: float) -> bool:
    alert = current.alert
    ended_at = now if alert.ends_at is None else alert.ends_at
    return (
        alert.starts_at <= silence.ends_at
        and silence.starts_at <= ended_at
        and silence.covers(alert.labels, silence.starts_at)
    )


def _muted(
    silence: Silence, rules: Sequence[Rule], own: Mapping[str, str]
) -> list[str]:
    """The rules whose alerts it would mute."""
    return [
        rule.name
        for rule in rules
        if silence.covers(
            {
                **own,
                "rule": rule.name,
                "severity": rule.severity,
                "source": f"rules.{rule.name}",
            },
            silence.starts_at,
        )
    ]
