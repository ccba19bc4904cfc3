"""Find out why readings of a sensor are missing or bad at some time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from meshtasks.amqp.entities import tail_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import span_text
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import Flows
from meshtasks.flows.timeseries_queries import (
    Retention,
    retention_of,
    victoriametrics_state,
)
from meshtasks.observation.causes import RETENTION, causes
from meshtasks.observation.explain import exchanges_for
from meshtasks.observation.sensor_facts import (
    Cause,
    Facts,
    Live,
    QueueNow,
    Remembered,
    Window,
    clock,
    look_at,
    mutes_of,
)
from meshtasks.state.database import StateLocation
from meshtasks.state.sensor_activity import BATTERIES, Sensor

#: Without a time, the answer covers the last 15 minutes, and the last day if no cause
#: is found in them.
_LATELY_SECONDS = (900.0, 86_400.0)
#: Time before and after a moment without a gap in which causes are searched.
_BEFORE_SECONDS, _AFTER_SECONDS = 90.0, 150.0
#: How far back the state is read.
_REMEMBERED_SECONDS = 30 * 86_400.0
#: For a younger time the retention of the store is not requested: most stores keep
#: more than this.
_ASK_STORE_SECONDS = 20 * 86_400.0
#: Sensors of one name that are examined.
_MOST_SENSORS = 8
_SUGGESTIONS = 3

WELL, EXPLAINED, UNKNOWN_TIME, UNKNOWN = "well", "explained", "not known", "no such"


@dataclass(frozen=True, slots=True)
class Answer:
    """The causes of missing or bad readings, in sentences.

    Attributes:
        name: the name in the question.
        state: :data:`WELL`, :data:`EXPLAINED`, :data:`UNKNOWN_TIME` (nothing is
            recorded of that time) or :data:`UNKNOWN` (no such sensor).
        headline: the state of the sensor at that time, in a sentence.
        causes: the most relevant first.
        facts: the data about the sensor.
        hole: the gap that contains the moment; None if there is none.
        also: other sensors with this name, or similar names.
    """

    name: str
    state: str
    headline: str
    causes: tuple[Cause, ...]
    facts: Facts
    hole: Window | None = None
    also: tuple[str, ...] = ()

    @property
    def sensor(self) -> Sensor | None:
        """The sensor; None if none of its readings was stored."""
        return self.facts.sensor

    def as_json(self) -> dict[str, Any]:
        """The answer as JSON data, for ``--json``."""
        return {
            "name": self.name,
            "state": self.state,
            "cause": self.causes[0].cause if self.causes else None,
            "headline": self.headline,
            "hole": self.hole and self.hole._asdict(),
            "causes": [cause._asdict() for cause in self.causes],
            "sensor": self.sensor and self.sensor._asdict(),
            "also": self.also,
        }

    def lines(self) -> Iterator[str]:
        """The answer as lines of text."""
        yield self.headline
        for cause in self.causes:
            yield cause.sentence
            if cause.next_step:
                yield f"  {cause.next_step}"
        if self.also:
            yield f"See also: {', '.join(self.also)}"


class Why:
    """Answers questions about one mesh.

    Args:
        remembered: what the state records; None reads the state.
        now: epoch seconds; None is the current time.

    Raises:
        SinkUnavailable: the state cannot be read.
        ConfigError: a file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        flows: Flows,
        remembered: Remembered | None = None,
        now: float | None = None,
    ) -> None:
        self._settings = settings
        self._topology = settings.read(TOPOLOGY)
        self._handlers = flows.handlers(settings)
        self._now = time.time() if now is None else now
        since = self._now - _REMEMBERED_SECONDS
        self._state = remembered or Remembered.read(settings, since)

    # --- sensors by name --------------------------------------------------

    def keys(self) -> list[tuple[str, str]]:
        """Routing key and sensor id of every sensor in the state, without batteries."""
        known = {
            sensor[:2] for sensor in self._state.sensors if sensor.kind not in BATTERIES
        }
        without_id = {key for key, sensor_id in known if not sensor_id}
        only_incidents = {
            incident[:2]
            for incident in self._state.incidents
            if incident.routing_key not in without_id
        }
        return sorted(known | only_incidents)

    def matching(self, name: str) -> list[tuple[str, str]]:
        """The sensors that a name may mean.

        The name is compared with the routing keys, the MQTT topics, the sensor ids,
        the locations and the tails of routing keys, in this order. The first kind with
        a match decides; a match with the same case comes first.
        """
        name = name.strip().strip("/")
        places = {sensor[:2]: sensor.location for sensor in self._state.sensors}
        keys = self.keys()
        for name_of in (
            lambda key: key[0],
            lambda key: key[0].replace(".", "/"),
            lambda key: key[1],
            lambda key: places.get(key, ""),
            lambda key: tail_of(key[0]),
        ):
            for fold in (str, str.casefold):
                if found := [
                    each for each in keys if fold(name_of(each)) == fold(name)
                ]:
                    return found
        return []

    # --- facts of a sensor ------------------------------------------------

    def queues_of(self, routing_key: str) -> frozenset[str]:
        """The queues with a handler that messages with this routing key reach."""
        reached: set[str] = set()
        for exchange in exchanges_for(self._topology, routing_key):
            reached |= self._topology.queues_reached(exchange, routing_key)
        return frozenset(reached & self._handlers.keys())

    def _facts(self, key: tuple[str, str], live: Live | None) -> Facts:
        """The facts about a sensor, from the state and, if given, from ``live``."""
        routing_key, sensor_id = key
        sensors = self._state.sensors
        sensor = next((each for each in sensors if each[:2] == key), None)
        queues = self.queues_of(routing_key)
        sinks = {
            sink
            for name, handler in self._handlers.items()
            if name in queues or name.startswith("archive.")
            for sink in handler.sink_names
        }
        blocking = {
            sink.name
            for queue in queues
            for sink in self._handlers[queue].sinks
            if not sink.waits_in
        }
        return Facts(
            sensor,
            self._now,
            siblings=[
                each
                for each in sensors
                if sensor_id
                and each.sensor_id == sensor_id
                and sensor is not None
                and each.kind == sensor.kind
                and each.routing_key != routing_key
            ],
            gaps=[gap for gap in self._state.gaps if gap[:2] == key],
            incidents=[
                incident
                for incident in self._state.incidents
                if incident.routing_key == routing_key
                and (not sensor_id or incident.sensor_id in {sensor_id, ""})
            ],
            spans=self._state.spans,
            queues=queues,
            sinks=frozenset(sinks),
            blocking=frozenset(blocking),
            mutes=tuple(mutes_of(self._settings, key, sensor, self._now)),
            **({} if live is None else _now(live, queues)),
        )

    # --- causes -----------------------------------------------------------

    def answer(
        self, key: tuple[str, str], name: str, at: float | None, live: Live | None
    ) -> Answer:
        """The causes for one sensor, now or at a moment.

        Args:
            key: routing key and id of the sensor.
            name: the name in the question.
            at: the moment, epoch seconds; None is now.
            live: the broker and the workers now; None if they were not queried.
        """
        facts = self._facts(key, live)
        if at is not None:
            return self._answer_at(facts, key, name, at)
        sensor, hole = facts.sensor, facts.silence
        found = causes(facts, hole, is_hole=True) if hole else []
        for seconds in _LATELY_SECONDS:
            if not found:
                lately = Window(self._now - seconds, None)
                found = causes(facts, lately, is_hole=False)
        if sensor is None or not sensor.time:
            headline = f"No reading of {_named(key)} was ever stored."
        else:
            value = sensor.value
            valued = "" if value is None else f", {value:.4g} {sensor.unit},"
            headline = (
                f"{_named(key)} {'is silent' if hole else 'sends'}: its last reading"
                f"{valued} is of {clock(sensor.time, self._now)}, "
                f"{span_text(self._now - sensor.time)} ago."
            )
        recent = self._now - _LATELY_SECONDS[0]
        is_wrong = hole is not None or any(
            cause.ends_at is None or cause.ends_at >= recent for cause in found
        )
        state = EXPLAINED if is_wrong else WELL
        if not found:
            headline += " Nothing was wrong with it in the last 24 h."
        return Answer(name, state, headline, tuple(found), facts, hole)

    def _answer_at(
        self, facts: Facts, key: tuple[str, str], name: str, at: float
    ) -> Answer:
        now = self._now
        hole = facts.hole_at(at)
        window = hole or Window(at - _BEFORE_SECONDS, min(at + _AFTER_SECONDS, now))
        if hole is None and at + _AFTER_SECONDS >= now:
            window = Window(window.begins_at, None)
        found = causes(facts, window, at, is_hole=hole is not None)
        when = clock(at, now)
        first = _first(facts)
        if retention := self._too_old_for_store(at):
            sentence = (
                f"The time-series store keeps {retention.days:.0f} days, and {when} is "
                f"before that: {retention.fate}."
            )
            found.append(Cause(RETENTION, at, at, sentence))
        if hole:
            ends_at = hole.ends_at
            end = "it has not ended" if ends_at is None else f"to {clock(ends_at, now)}"
            headline = (
                f"At {when} {_named(key)} has a gap, from "
                f"{clock(hole.begins_at, now)} {end}."
            )
        elif not found and at < first:
            known = (
                f"the first that is remembered of it is of {clock(first, now)}"
                if first < now
                else "nothing is remembered of it"
            )
            headline = f"Nothing is known of {_named(key)} at {when}: {known}."
            return Answer(name, UNKNOWN_TIME, headline, (), facts)
        elif found:
            headline = f"At {when} {_named(key)} has no gap, but:"
        else:
            headline = f"At {when} {_named(key)} has no gap, and nothing was wrong."
        state = EXPLAINED if found else WELL
        return Answer(name, state, headline, tuple(found), facts, hole)

    def _too_old_for_store(self, at: float) -> Retention | None:
        if self._now - at < _ASK_STORE_SECONDS or not self._settings.env.influx_url:
            return None
        env = self._settings.env
        retention = retention_of(env, victoriametrics_state(env.influx_url))
        return retention if retention and at < retention.oldest() else None

    # --- unknown names ----------------------------------------------------

    def of_unknown(self, name: str, live: Live | None) -> Answer:
        """The answer for a name that no recorded sensor has."""
        names = {part for each in self.keys() for part in each if part}
        names |= {each.location for each in self._state.sensors if each.location}
        like = tuple(get_close_matches(name, sorted(names), n=_SUGGESTIONS))
        facts, found = Facts(None, self._now), []
        empty = ""
        if not self.keys():
            where = StateLocation.of(self._settings.env)
            empty = (
                f" No sensor at all is known in the state, {where}: do the workers use "
                "it, too (MESH_STATE_DIR, MESH_STATE_URL)?"
            )
        key = name.strip().strip("/").replace("/", ".")
        if "." not in key:
            headline = (
                f"Nothing has come of {name}: no reading that was taken or refused in "
                f"the last 30 days has this sensor id, location or routing key.{empty}"
            )
        elif not (queues := self.queues_of(key)):
            patterns = sorted(
                binding.routing_key
                for binding in self._topology.bindings
                if binding.queue in self._handlers
                and not binding.queue.startswith(("archive.", "alerts."))
            )
            near = get_close_matches(key, patterns, n=1, cutoff=0.3)
            headline = (
                f"No queue takes messages with the routing key {key}: no binding in "
                "topology.yaml matches it, so they become dead letters"
                + (f" ({near[0]} is the nearest)" if near else "")
                + "."
            )
        else:
            if live is not None:
                facts = self._facts((key, ""), live)
                found = causes(facts, Window(self._now - 900.0, None), is_hole=False)
            headline = (
                f"Nothing has ever come with the routing key {key}. It would be taken "
                f"by {', '.join(sorted(queues))}.{empty}"
            )
        return Answer(name, UNKNOWN, headline, tuple(found), facts, also=like)


def ask(settings: Settings, flows: Flows, name: str, at: float | None = None) -> Answer:
    """Find the causes for a sensor, now or at a moment.

    Args:
        name: routing key, sensor id, location or MQTT topic.
        at: epoch seconds; None is now.

    Raises:
        SinkUnavailable: the state cannot be read.
        ConfigError: a file cannot be used.
    """
    why = Why(settings, flows)
    keys = why.matching(name)
    queues: set[str] = set()
    for routing_key, _ in keys or [(name.strip("/").replace("/", "."), "")]:
        queues |= why.queues_of(routing_key)
    is_now = at is None or time.time() - at < _AFTER_SECONDS
    live = look_at(settings, sorted(queues)) if is_now else None
    if not keys:
        return why.of_unknown(name, live)
    answers = [why.answer(key, name, at, live) for key in keys[:_MOST_SENSORS]]
    # explained answers first, and among them those with a gap
    best = min(answers, key=lambda each: (each.state != EXPLAINED, each.hole is None))
    others = tuple(
        _named(key)
        for key, each in zip(keys, answers, strict=False)
        if each is not best
    )
    return replace(best, also=others)


def _now(live: Live, queues: frozenset[str]) -> dict[str, Any]:
    """The fields of :class:`Facts` that come from the broker and the workers."""
    if live.depths is None:
        return {"queues_now": None, "broker": live.fault}
    reasons = {
        queue: "; ".join(answer.down.values())
        for answer in live.workers
        for queue in answer.resting
    }
    return {
        "workers": len(live.workers),
        "queues_now": [
            QueueNow(name, *live.depths[name], reasons.get(name, ""))
            for name in sorted(queues)
            if name in live.depths
        ],
    }


def _first(facts: Facts) -> float:
    """The earliest time of which something is recorded, epoch seconds."""
    known = [facts.now]
    if sensor := facts.sensor:
        since = (sensor.number - 1) * sensor.usual_seconds
        known += [sensor.first_at, sensor.time - since]
    known += [gap.begins_at for gap in facts.gaps]
    known += [incident.begins_at for incident in facts.incidents]
    return min(known)


def _named(key: tuple[str, str]) -> str:
    """The name of a sensor in sentences."""
    routing_key, sensor_id = key
    if sensor_id in {"", tail_of(routing_key)}:
        return routing_key
    return f"{routing_key} (sensor {sensor_id})"
