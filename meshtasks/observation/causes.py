"""Find the causes of missing or bad readings in given facts; without I/O.

``meshtasks why`` and the console's page of a sensor show these causes. Times are epoch
seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshtasks.config.durations import span_text
from meshtasks.observation.sensor_facts import (
    RULE_SILENCED,
    SLACK_SECONDS,
    Cause,
    Facts,
    Window,
    between,
    clock,
    counted,
    sink_named,
)
from meshtasks.state.sensor_activity import (
    BAD_RECORD,
    BAD_UNIT,
    CLOCK_AHEAD,
    CLOCK_BEHIND,
    DUPLICATE_ID,
    GIVEN_UP,
    INVALID_JSON,
    OUT_OF_LIMITS,
    REFUSED_BY_STORE,
    REPEATED,
    TEXT_VALUE,
    TOO_LARGE,
    Incident,
    Span,
)

STORE_AWAY, SINK_AWAY, DISK_FULL = "store away", "sink away", "disk full"
BROKER_AWAY, DEVICE_SILENT = "broker away", "device silent"
NO_WORKER, NO_CONSUMER, PAUSED = "no worker", "no consumer", "queue paused"
RETENTION, LATE = "retention", "late"

#: What to do about each cause that concerns the sensor's own readings. These causes are
#: the most relevant, so they come first in :data:`_RANKS`.
REFUSALS = {
    BAD_UNIT: "Correct the unit where it is sent, or add it to kinds.yaml",
    TEXT_VALUE: "Send the value as a JSON number, without quotation marks",
    OUT_OF_LIMITS: "Look at the sensor; the limits are those of its kind (kinds.yaml)",
    INVALID_JSON: "Send JSON in UTF-8",
    TOO_LARGE: "Send fewer records in a message",
    REFUSED_BY_STORE: "See what the time-series store says",
    CLOCK_AHEAD: "Set the device's clock and its time zone",
    CLOCK_BEHIND: "Set the device's clock and its time zone",
    BAD_RECORD: "Correct what is sent",
    GIVEN_UP: "See why it failed",
}
_RANKS = (
    *REFUSALS,
    DUPLICATE_ID,
    BROKER_AWAY,
    NO_WORKER,
    NO_CONSUMER,
    PAUSED,
    DEVICE_SILENT,
    STORE_AWAY,
    RULE_SILENCED,
    RETENTION,
    LATE,
    DISK_FULL,
    SINK_AWAY,
    REPEATED,
)
#: If the readings under two routing keys are further apart than this, one device has
#: moved: it no longer uses the old key. Otherwise there are two devices.
_SIBLINGS_SECONDS = 60.0
#: Without a moment, causes that ended within this time come before older ones.
CURRENT_SECONDS = 60.0
#: Delays that differ by no more than this come from a wrong clock; other delays come
#: from readings that were held back.
_STEADY_SECONDS, _STEADY_SHARE = 60.0, 0.1
#: A span without an end is over if its worker has not confirmed it for this time.
_UNHEARD_SECONDS = 60.0


def causes(
    facts: Facts, window: Window, at: float | None = None, *, is_hole: bool
) -> list[Cause]:
    """The causes for a span of time, the most relevant first.

    Args:
        window: the span.
        at: a moment in the window. Causes of the minute that begins at this moment come
            before other causes.
        is_hole: whether the window is a gap: it has no readings.
    """
    ends_at = facts.now if window.ends_at is None else window.ends_at
    found = [
        *_own(facts, window),
        *_siblings(facts, window),
        *_spans(facts, window, ends_at),
        *(_live(facts) if window.ends_at is None else ()),
        *(
            mute
            for mute in facts.mutes
            if window.overlap(mute.begins_at, mute.ends_at) >= 0
        ),
    ]
    if is_hole and not any(
        each.cause in _EXPLAINS and _covers(each, window, facts) for each in found
    ):
        found.append(_silent(facts, window))

    def order(cause: Cause) -> tuple[int, int, float]:
        ends, off = facts.now if cause.ends_at is None else cause.ends_at, 0
        if at is not None:
            off = int(cause.begins_at >= at + 60 or ends < at)
        elif not is_hole:
            is_recent = ends >= facts.now - CURRENT_SECONDS
            goes_on = cause.ends_at is None or (is_recent and cause.cause in REFUSALS)
            off = 2 - goes_on - is_recent
        return off, _RANKS.index(cause.cause), -ends

    ordered = sorted(found, key=order)
    return list({(each.cause, each.sentence): each for each in ordered}.values())


#: Each of these causes can explain a gap, so that the device need not have been silent.
_EXPLAINS = frozenset({*REFUSALS, BROKER_AWAY, NO_WORKER, NO_CONSUMER, PAUSED})


def _covers(cause: Cause, window: Window, facts: Facts) -> bool:
    """Whether a cause explains a gap: it covers at least half of it, or all but a usual
    pause of the sensor. Rejected readings always do: the device sent them."""
    if cause.cause in REFUSALS or facts.sensor is None:
        return True
    ends_at = facts.now if window.ends_at is None else window.ends_at
    whole = ends_at - window.begins_at
    until_now = Window(window.begins_at, ends_at)
    within = until_now.overlap(cause.begins_at, cause.ends_at)
    return within >= whole / 2 or whole - within <= facts.sensor.gap_seconds


# --- causes in the sensor's own readings


def _own(facts: Facts, window: Window) -> Iterator[Cause]:
    for incident in facts.incidents:
        received = window.overlap(incident.begins_at, incident.ends_at) >= 0
        made = incident.first_time is not None and (
            window.overlap(incident.first_time, incident.last_time or 0.0) >= 0
        )
        if received or made:
            yield _of_incident(incident, facts)


def _of_incident(incident: Incident, facts: Facts) -> Cause:
    ends = None if facts.now - incident.ends_at < SLACK_SECONDS else incident.ends_at
    when = between(incident.begins_at, incident.ends_at, facts.now)
    count = counted(incident.number, "reading")
    made = _made(incident, facts.now)
    step, cause = "", incident.cause
    if incident.reason and incident.cause not in {DUPLICATE_ID, REPEATED}:
        sentence, step = _refusal(incident, count, when, made)
    elif incident.cause in {CLOCK_AHEAD, CLOCK_BEHIND}:
        sentence, is_clock = _clock(incident, count, when, made)
        step = f"{REFUSALS[cause]}." * is_clock
        cause = cause if is_clock else LATE
    elif incident.cause == DUPLICATE_ID:
        name = incident.sensor_id or incident.routing_key
        sentence = (
            f"Two devices use the id {name}: {count} {when} contradict each other; "
            f"{incident.reason}. Of two readings of one time the later one is kept."
        )
        step = "Give each device an id of its own."
    else:
        plural = "s" * (incident.number != 1)
        sentence = (
            f"{count} {_were(incident.number)} duplicate{plural}: "
            f"{when} there came what had come before, with the same id or time. It is "
            "stored once."
        )
    return Cause(cause, incident.begins_at, ends, sentence, step)


def _refusal(incident: Incident, count: str, when: str, made: str) -> tuple[str, str]:
    """Return the sentence for rejected readings, and the next step."""
    said = incident.reason.rstrip(".")
    sentence = f"{count} {_were(incident.number)} refused {when}{made}: {said}."
    if incident.example:
        sentence += f" The last one: {incident.example}"
    what = REFUSALS.get(incident.cause, "See why it failed")
    if said.startswith("the gateway "):  # rejected by it: there is no dead letter
        return sentence, f"{what}, and send it again."
    again = f'meshtasks dlq list --routing-key "{incident.routing_key}"'
    return sentence, f"{what}; what was refused waits as a dead letter: {again}."


def _made(incident: Incident, now: float) -> str:
    """The device's own times of the readings, if they differ much from the arrival."""
    first, last = incident.first_time, incident.last_time
    if (
        first is None
        or last is None
        or max(abs(incident.ahead_high), abs(incident.ahead_low)) < _STEADY_SECONDS
    ):
        return ""
    return f" (by their own time {between(first, last, now)})"


def _clock(incident: Incident, count: str, when: str, made: str) -> tuple[str, bool]:
    """Return the sentence for readings whose times are far from their arrival, and
    whether a wrong clock is the cause. A wrong clock has a constant offset."""
    low, high = sorted(map(abs, (incident.ahead_low, incident.ahead_high)))
    steady = high - low <= max(_STEADY_SECONDS, _STEADY_SHARE * high)
    off = span_text(high) if steady else f"{span_text(low)} to {span_text(high)}"
    side = "ahead" if incident.cause == CLOCK_AHEAD else "behind"
    sentence = f"{count} received {when} carried a time that is {off} {side}{made}"
    if steady or side == "ahead":
        found = "and are found there in the curve"
        return f"The device's clock is {off} {side}: {sentence}, {found}.", True
    return f"{sentence}: they were held back on their way.", False


def _siblings(facts: Facts, window: Window) -> Iterator[Cause]:
    sensor = facts.sensor
    if sensor is None:
        return
    for other in facts.siblings:
        begins = max(other.first_at, sensor.first_at)
        ends = min(other.received_at, sensor.received_at)
        if begins > ends + _SIBLINGS_SECONDS:
            continue
        begins, ends = min(begins, ends), max(begins, ends)
        if window.overlap(begins, ends) >= 0:
            yield Cause(
                DUPLICATE_ID,
                begins,
                ends,
                f"Two devices use the id {sensor.sensor_id}: since "
                f"{clock(begins, facts.now)} readings with it come as "
                f"{sensor.routing_key} and as {other.routing_key}, and end in one "
                "curve.",
                "Give each device an id of its own.",
            )


def _silent(facts: Facts, window: Window) -> Cause:
    sensor = facts.sensor
    usual = ""
    if sensor and sensor.usual_seconds:
        usual = f"; it usually sends every {span_text(sensor.usual_seconds)}"
    last = clock(window.begins_at, facts.now)
    if window.ends_at is None:
        long = span_text(facts.now - window.begins_at)
        sentence = f"Nothing has come for {long}: the last reading is of {last}{usual}."
    else:
        long = span_text(window.ends_at - window.begins_at)
        sentence = (
            f"Nothing came for {long}: the last reading before is of {last}, the next "
            f"of {clock(window.ends_at, facts.now)}{usual}."
        )
    sentence = (
        f"The device was silent. {sentence} Nothing else is known that would have "
        "kept its readings away."
    )
    step = "Look at its power, its network, and whatever publishes for it."
    return Cause(DEVICE_SILENT, window.begins_at, window.ends_at, sentence, step)


# --- causes in the services that readings need


def _spans(facts: Facts, window: Window, ends_at: float) -> Iterator[Cause]:
    within = Window(window.begins_at, ends_at)
    for span in facts.spans:
        end = _end(span, facts.now)
        if within.overlap(span.begins_at, end) >= 0:
            if span.kind == "broker":
                yield _of_broker(span, end, facts)
            elif span.kind == "sink" and span.name in facts.sinks:
                yield _of_sink(span, end, facts)
    yield from _unattended(facts, within)


def _of_broker(span: Span, ends_at: float | None, facts: Facts) -> Cause:
    sentence = (
        f"The broker was away {_from_to(span.begins_at, ends_at, facts.now)}, as "
        f"{span.seen_by} saw it; who publishes without a memory of their own lost "
        "what they had meanwhile."
    )
    return Cause(BROKER_AWAY, span.begins_at, ends_at, sentence)


def _of_sink(span: Span, ends_at: float | None, facts: Facts) -> Cause:
    name = sink_named(span.name)
    is_full = "o space left" in span.reason or "quota" in span.reason.lower()
    cause = DISK_FULL if is_full else SINK_AWAY
    if span.name in {"timeseries", "pending.timeseries"}:
        cause = STORE_AWAY
    elif span.name in facts.blocking:
        cause = PAUSED
    when = _from_to(span.begins_at, ends_at, facts.now)
    said = span.reason.rstrip(".")
    after = (
        "what was to be stored waits and is stored when it answers"
        if ends_at is None
        else "what was to be stored waited, and was stored afterwards"
    )
    what = "is full" if is_full else "is away" if ends_at is None else "was away"
    sentence = f"{name[0].upper()}{name[1:]} {what} {when} ({said}); {after}."
    return Cause(cause, span.begins_at, ends_at, sentence)


def _unattended(facts: Facts, within: Window) -> Iterator[Cause]:
    """The times at which no worker consumed a queue of the sensor. They start after the
    first recorded worker of the queue."""
    for queue in sorted(facts.queues):
        running = sorted(
            (span.begins_at, _end(span, facts.now) or facts.now)
            for span in facts.spans
            if span.kind == "worker" and queue in span.reason.split()
        )
        for begins, ends in _between(running, facts.now):
            goes_on = ends >= facts.now
            if goes_on and any(
                each.name == queue and each.consumers for each in facts.queues_now or ()
            ):
                continue  # a worker consumes it, but has not recorded it yet
            if ends - begins > SLACK_SECONDS and within.overlap(begins, ends) > 0:
                when = _from_to(begins, None if goes_on else ends, facts.now)
                yield Cause(
                    NO_WORKER,
                    begins,
                    None if goes_on else ends,
                    f"No worker consumed the queue {queue} {when}; what was published "
                    "waited in it.",
                    "Start the worker." if goes_on else "",
                )


def _runs_elsewhere(facts: Facts, queue: str) -> bool:
    """Whether a worker consumes other queues. The recorded spans are read as well,
    because a busy worker does not always answer in time."""
    return bool(facts.workers) or any(
        span.kind == "worker"
        and _end(span, facts.now) is None
        and queue not in span.reason.split()
        for span in facts.spans
    )


def _end(span: Span, now: float) -> float | None:
    """When a span ended; None if it continues."""
    is_heard = now - span.heard_at <= _UNHEARD_SECONDS
    return None if span.ends_at is None and is_heard else span.ends_at or span.heard_at


def _between(
    running: Sequence[tuple[float, float]], now: float
) -> Iterator[tuple[float, float]]:
    """The intervals between spans, and from the last span to now."""
    if not running:
        return
    until = running[0][1]
    for begins, ends in running[1:]:
        if begins > until:
            yield until, begins
        until = max(until, ends)
    if until < now:
        yield until, now


def _live(facts: Facts) -> Iterator[Cause]:
    """The causes that the broker and the workers show now."""
    now = facts.now
    if facts.queues_now is None:
        yield Cause(
            BROKER_AWAY, now, None, f"The broker cannot be reached: {facts.broker}."
        )
        return
    for queue in facts.queues_now:
        waiting = f"{counted(queue.ready, 'message', 'wait')} in it"
        if queue.paused:
            yield Cause(
                PAUSED,
                now,
                None,
                f"The queue {queue.name} is paused, and {waiting}: {queue.paused}.",
            )
        elif not queue.consumers and not _runs_elsewhere(facts, queue.name):
            yield Cause(
                NO_WORKER,
                now,
                None,
                f"No worker runs that consumes the queue {queue.name}; {waiting}.",
                f"Start one: celery -A meshtasks worker -Q {queue.name}",
            )
        elif not queue.consumers:
            yield Cause(
                NO_CONSUMER,
                now,
                None,
                f"Nobody consumes the queue {queue.name}; {waiting}.",
                f"Add it to a worker's -Q, or: celery -A meshtasks control "
                f"add_consumer {queue.name}",
            )


# --- wording


def _from_to(begins_at: float, ends_at: float | None, now: float) -> str:
    if ends_at is None:
        return f"since {clock(begins_at, now)}, for {span_text(now - begins_at)}"
    long = span_text(ends_at - begins_at)
    return f"from {clock(begins_at, now)} to {clock(ends_at, now)}, for {long}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
