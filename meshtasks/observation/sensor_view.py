"""A sensor as its page shows it: its curve, and what each hole in it is due to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from meshtasks.config.settings import Settings
from meshtasks.errors import MeshError
from meshtasks.flows.curves import Point, read_curve
from meshtasks.observation.causes import causes
from meshtasks.observation.remembered import Live
from meshtasks.observation.sensor_facts import Cause, Facts, Window, labels_of
from meshtasks.observation.why import Answer, Why
from meshtasks.records.kinds import KINDS
from meshtasks.rules.config import RULES, Rule

#: Annotations of a curve; there may be thousands of gaps.
_MOST = 40


class Annotation(NamedTuple):
    """A part of the curve, and why it is as it is.

    Attributes:
        window: the part.
        is_hole: there are no readings in it.
        causes: what says most comes first.
    """

    window: Window
    is_hole: bool
    causes: tuple[Cause, ...]


class SensorView(NamedTuple):
    """What the page shows.

    Attributes:
        key: routing key and id; None of a sensor that nobody knows.
        answer: why it is as it is now.
        points: of the curve, in order of time.
        fault: why there is no curve; empty if there is one.
        annotations: the latest first.
        rules: that watch it.
        labels: that alerts of it have.
    """

    key: tuple[str, str] | None
    answer: Answer
    points: Sequence[Point] = ()
    fault: str = ""
    annotations: Sequence[Annotation] = ()
    rules: tuple[Rule, ...] = ()
    labels: Mapping[str, str] = {}


def sensor_view(
    why: Why,
    settings: Settings,
    name: str,
    sensor_id: str,
    begins_at: float,
    now: float,
    live: Live | None,
) -> SensorView:
    """The view of a sensor.

    Args:
        why: answers for it.
        name: as ``meshtasks why`` takes it.
        sensor_id: chooses one of several that the name may mean; may be empty.
        begins_at: of the curve, which ends now; epoch seconds.
        now: likewise.
    """
    keys = why.matching(name)
    key = next((each for each in keys if each[1] == sensor_id), None)
    if key is None and keys:
        key = keys[0]
    if key is None:
        return SensorView(None, why.of_unknown(name, live))
    facts = why.facts(key, live)
    points, fault = _curve(settings, facts, key, begins_at, now)
    return SensorView(
        key,
        why.answer(key, name, None, live),
        points,
        fault,
        list(_annotations(facts, begins_at))[:_MOST],
        settings.read(RULES).matching(*key),
        labels_of(key, facts.sensor),
    )


def _curve(
    settings: Settings,
    facts: Facts,
    key: tuple[str, str],
    begins_at: float,
    now: float,
) -> tuple[Sequence[Point], str]:
    sensor = facts.sensor
    quantities = settings.read(KINDS).quantities
    if sensor is None or sensor.kind not in quantities:
        return (), "There are no readings of it that the time-series store would have."
    try:
        quantity = quantities[sensor.kind]
        return read_curve(settings.env, quantity, key[1], begins_at, now), ""
    except MeshError as error:
        return (), f"The curve cannot be read: {error}"


def _annotations(facts: Facts, begins_at: float) -> Iterator[Annotation]:
    """The holes, and what else was wrong; the latest first."""
    holes = [
        Window(gap.begins_at, gap.ends_at)
        for gap in facts.gaps
        if gap.ends_at >= begins_at
    ]
    if silence := facts.silence:
        holes.append(silence)
    found = [
        Annotation(hole, True, tuple(causes(facts, hole, is_hole=True)))  # noqa: FBT003 - a field
        for hole in holes[-_MOST:]
    ]
    said = {cause.sentence for each in found for cause in each.causes}
    whole = Window(begins_at, None)
    found += [
        Annotation(Window(cause.begins_at, cause.ends_at), False, (cause,))  # noqa: FBT003 - likewise
        for cause in causes(facts, whole, is_hole=False)
        if cause.sentence not in said
    ]
    yield from sorted(found, key=lambda each: -each.window.begins_at)
