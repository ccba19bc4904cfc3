"""Activity of sensors in a batch, which later explains gaps.

This module only computes. The worker's consuming process gets the activity with the
result of the batch, and stores it for many batches together
(:mod:`meshtasks.worker.recording`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from statistics import median

import msgspec

from meshtasks.amqp.dead_letters import sensor_of
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import InvalidTimestamp, any_moment, published_at
from meshtasks.rules.detection import Sample
from meshtasks.rules.evaluation import Watched
from meshtasks.state.sensor_activity import (
    BAD_RECORD,
    BAD_UNIT,
    BATTERY,
    BATTERY_LOW,
    CLOCK_AHEAD,
    CLOCK_BEHIND,
    FULL_PERCENT,
    GIVEN_UP,
    INVALID_JSON,
    OUT_OF_LIMITS,
    REFUSED_BY_STORE,
    SHORTEST_GAP_SECONDS,
    TEXT_VALUE,
    TOO_LARGE,
    Incident,
    Seen,
)
from meshtasks.text import clip

#: Most routing keys of one batch that are recorded, because publishers choose them.
_MOST_KEYS = 1_000
#: A pause between samples of a batch is recorded if it is this many times as long as
#: the median; the state decides whether it is a gap.
_PAUSES = 2.5
_TIME = itemgetter(0)
#: Field of the battery level in the metrics of devices.
BATTERY_PERCENT = "battery_percent"


def of_readings(watched: Iterable[Watched]) -> Iterator[Seen]:
    """Activities of sensors, from their readings.

    Args:
        watched: samples of each series, with its first message.
    """
    for series, _, samples, envelope in watched:
        if envelope is None:
            continue
        repeated, conflict = 0, ""
        first, value = samples[0]
        last = first
        stretches: tuple[tuple[float, float, int], ...] = ((first, first, 1),)
        if len(samples) > 1:
            ordered: Sequence[Sample] = samples
            if not _is_ordered(samples):
                ordered = sorted(samples, key=_TIME)
                repeated, conflict = _repeated(ordered)
            last, value = ordered[-1]
            stretches = tuple(_stretches(ordered))
        received_at = envelope.received_at
        at = published_at(envelope) if envelope.timestamp else received_at
        low, high = first - at, last - at
        if low > high:
            low, high = high, low
        if low < 0 < high or (envelope.headers and envelope.may_be_old):
            low = high = 0.0
        _, kind, unit, sensor_id, location, *_ = series
        what = envelope.routing_key, sensor_id, kind, location, unit, value
        yield (*what, stretches, received_at, low, high, repeated, conflict)


def of_keys(envelopes: Sequence[Envelope]) -> Iterator[Seen]:
    """Activities of routing keys, from records that are not readings.

    Args:
        envelopes: message of each record, in order of arrival.
    """
    found: dict[str, list[float]] = {}
    for envelope in envelopes:
        times = found.get(envelope.routing_key)
        if times is None:
            if len(found) >= _MOST_KEYS:
                continue
            times = found[envelope.routing_key] = []
        times.append(envelope.received_at)
    for key, times in found.items():
        first, last = min(times), max(times)
        stretches = ((first, last, len(times)),)
        yield (key, "", "", "", "", None, stretches, last, 0.0, 0.0, 0, "")


def of_battery(
    envelope: Envelope,
    tags: Sequence[tuple[str, str]],
    fields: Mapping[str, object],
) -> Seen | None:
    """The battery level in a metric of a device; None if it has none.

    Args:
        envelope: message of the metric.
        tags: tags of the metric.
        fields: fields of the metric.
    """
    kind, unit, value = BATTERY, "%", fields.get(BATTERY_PERCENT)
    most = FULL_PERCENT
    if value is None:
        kind, unit, value, most = BATTERY_LOW, "", fields.get(BATTERY_LOW), 1
    if not (isinstance(value, int | float) and 0 <= value <= most):
        return None
    named = dict(tags)
    sensor_id = named.get("sensor_id") or named.get("host") or envelope.key_tail
    what = envelope.routing_key, sensor_id, kind, named.get("location", ""), unit
    at = envelope.received_at
    return (*what, float(value), ((at, at, 1),), at, 0.0, 0.0, 0, "")


def _is_ordered(samples: Iterable[Sample]) -> bool:
    """Whether each sample is later than the one before."""
    before = -math.inf
    for at, _ in samples:
        if at <= before:
            return False
        before = at
    return True


def _stretches(ordered: Sequence[Sample]) -> Iterator[tuple[float, float, int]]:
    """Divide samples, in order of time, at long pauses. Yield first time, last time and
    number of samples of each part."""
    first, last, number = ordered[0][0], ordered[-1][0], len(ordered)
    pauses: list[float] = []
    if last - first > SHORTEST_GAP_SECONDS:
        times = [at for at, _ in ordered]
        pauses = [b - a for a, b in pairwise(times)]
    longest = max(SHORTEST_GAP_SECONDS, _PAUSES * median(pauses)) if pauses else 0.0
    if not pauses or max(pauses) <= longest:
        yield first, last, number
        return
    start = 0
    for index, pause in enumerate(pauses, 1):
        if pause > longest:
            yield times[start], times[index - 1], index - start
            start = index
    yield times[start], times[-1], number - start


def _repeated(ordered: Sequence[Sample]) -> tuple[int, str]:
    """The number of samples with the same time as the one before, and an example of two
    different values with the same time."""
    repeated, conflict = 0, ""
    before, value_before = ordered[0]
    for at, value in ordered[1:]:
        if at == before:
            repeated += 1
            if value != value_before:
                conflict = f"{value_before:g}, then {value:g}"
        before, value_before = at, value
    return repeated, conflict


#: Class of the error, pattern for its reason, and cause; the first match is used.
_CAUSES = tuple(
    (kind, re.compile(pattern), cause)
    for kind, pattern, cause in (
        ("UnknownUnit", "is not an? .*unit", BAD_UNIT),
        ("UnknownUnit", "", BAD_UNIT),
        ("UndecodableMessage", "max_message_bytes|bytes at most", TOO_LARGE),
        ("UndecodableMessage", "the body is", INVALID_JSON),
        ("UndecodableMessage", "", INVALID_JSON),
        ("InvalidTimestamp", "after it was received", CLOCK_AHEAD),
        ("InvalidTimestamp", "before it was received|before the year", CLOCK_BEHIND),
        ("InvalidTimestamp", "", BAD_RECORD),
        ("SchemaMismatch", " cannot be: ", OUT_OF_LIMITS),
        ("SchemaMismatch", "value: .*got the text", TEXT_VALUE),
        ("SchemaMismatch", "", BAD_RECORD),
        ("SinkRejected", "", REFUSED_BY_STORE),
    )
)


def cause_of(error_type: str, reason: str) -> str:
    """The cause of a dead letter, in a word or two.

    Args:
        error_type: class of the error; empty if unknown.
        reason: reason of the dead letter.
    """
    for kind, pattern, cause in _CAUSES:
        is_of_kind = kind == error_type if error_type else bool(pattern.pattern)
        if is_of_kind and pattern.search(reason):
            return cause
    return GIVEN_UP if error_type else BAD_RECORD


class _Timed(msgspec.Struct):
    timestamp: object = None


_TIMED = msgspec.json.Decoder(_Timed)
_EXAMPLE_CHARS = 300
#: Largest body that is searched for its sensor and time.
_LARGEST_BODY_BYTES = 64 * 1024


def refused(
    routing_key: str,
    body: bytes,
    error_type: str,
    reason: str,
    published_at: float | None,
    now: float,
) -> Incident:
    """The incident of a record that was dead-lettered.

    Args:
        routing_key: routing key of first publication.
        body: body of the dead letter.
        error_type: class of the error; empty if unknown.
        reason: reason of the dead letter.
        published_at: time that the publisher set, epoch seconds; None if it set none.
        now: epoch seconds.
    """
    small = body if len(body) <= _LARGEST_BODY_BYTES else b""
    at = _time_in(small)
    ahead = 0.0 if at is None else at - (published_at or now)
    text = " ".join(body[:_LARGEST_BODY_BYTES].decode(errors="replace").split())
    return Incident(
        routing_key,
        sensor_of(small, routing_key),
        cause_of(error_type, reason),
        now,
        now,
        1,
        reason,
        clip(text, _EXAMPLE_CHARS),
        ahead,
        ahead,
        at,
        at,
    )


def _time_in(body: bytes) -> float | None:
    """The time in a record, even if it is implausible; None if it has none."""
    if body[:1] != b"{":
        return None
    try:
        stamp = _TIMED.decode(body).timestamp
        return None if stamp is None else any_moment(stamp)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidTimestamp):
        return None
