"""Converts timestamps of records to epoch seconds.

A timestamp is RFC 3339 text, or a number of seconds, milliseconds, microseconds or
nanoseconds since the epoch.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeGuard

import msgspec

from meshtasks.errors import InvalidMessage
from meshtasks.records.envelope import Envelope
from meshtasks.text import clip, described

#: A record may be this far in the future, since clocks of devices differ. Beyond it the
#: clock is wrong, and the record would hide all correct ones as the latest.
AHEAD_LIMIT_SECONDS = 86_400.0
#: Times before 2000 are refused: they come from clocks that were never set, which start
#: at 1970.
EARLIEST_SECONDS = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
#: End of the times that can be shown in every calendar and time zone.
_END_SECONDS = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
#: Larger numbers are milliseconds, whole numbers a thousand times larger microseconds,
#: and so on. As seconds it is the year 2603, as milliseconds August 1970, so times from
#: 2000 to 2603 are recognised in every unit.
_LARGEST_SECONDS = 20_000_000_000
#: Larger numbers are no times.
_FAR = 1e20
#: The time of receipt modulo this many seconds gives late records of one second their
#: order. The order is wrong only if a multiple of it lies between their receipts.
_ORDERED_SECONDS = 10.0


class InvalidTimestamp(InvalidMessage):
    """The timestamp is not a time, or not a plausible one."""


def moment_of(stamp: object, envelope: Envelope) -> float:
    """The time of a record, in epoch seconds.

    Args:
        stamp: timestamp of the record (see :func:`epoch_seconds`). If it is None, the
            AMQP timestamp of the message is used, else the time of receipt.
        envelope: envelope of the record's message.

    Raises:
        InvalidTimestamp: see :func:`epoch_seconds`.
    """
    if stamp is None:
        stamp = envelope.timestamp or envelope.received_at
    return epoch_seconds(stamp, envelope.received_at)


def plausible_times(envelope: Envelope, oldest_seconds: float) -> tuple[float, float]:
    """The earliest and the latest plausible time of a message's records, in epoch
    seconds.

    Args:
        oldest_seconds: greatest age of the records; it does not apply to messages that
            may be old.
    """
    received_at = envelope.received_at
    earliest = received_at - oldest_seconds
    if earliest < EARLIEST_SECONDS or (envelope.headers and envelope.may_be_old):
        earliest = EARLIEST_SECONDS
    return earliest, received_at + AHEAD_LIMIT_SECONDS


class UntimedMoments:
    """Gives the records of a batch without timestamps distinct times, in order.

    AMQP timestamps have whole seconds, and a store keeps one point of a series for each
    time. So such a record gets a time within its second that depends on its receipt: in
    the middle half if it was received in this second, in the last quarter if in the
    next second, and in the first quarter if later or earlier (clocks may differ). If
    records of one series in a batch have the same millisecond, such as those of an
    array, each one gets the next free millisecond.

    A message that is redelivered after a crash of its worker has another time of
    receipt, so its records may be stored twice within the second. A retry keeps the
    first time of receipt. Records with timestamps are not affected.
    """

    def __init__(self) -> None:
        #: First and last millisecond of consecutive times, by series.
        self._runs: dict[str, tuple[int, int]] = {}

    def next(self, series: str, envelope: Envelope) -> float:
        """The time of the next record of a series, in epoch seconds.

        Raises:
            InvalidTimestamp: the AMQP timestamp of the message is not plausible.
        """
        moment_ms = int(_by_receipt(envelope) * 1000 + 0.5)
        first_ms, last_ms = self._runs.get(series, (0, -1))
        if first_ms <= moment_ms <= last_ms:
            moment_ms = last_ms + 1
        else:
            first_ms = moment_ms
        self._runs[series] = first_ms, moment_ms
        return moment_ms / 1000


def _by_receipt(envelope: Envelope) -> float:
    stamp, received_at = envelope.timestamp, envelope.received_at
    # For archived records, the time of receipt is the time of the record.
    if not stamp or envelope.is_archived:
        return epoch_seconds(received_at, received_at)
    second = epoch_seconds(stamp, received_at)
    if second != stamp or not second.is_integer():  # more precise than a second
        return second
    late = received_at - second
    if 0 <= late < 1:
        return second + 0.25 + late / 2
    if 1 <= late < 2:  # noqa: PLR2004 - the next second
        return second + 0.75 + (late - 1) / 4
    return second + received_at % _ORDERED_SECONDS / _ORDERED_SECONDS / 4


def too_old(time: float, envelope: Envelope, oldest_seconds: float) -> InvalidTimestamp:
    """The error for a record that is too old.

    Args:
        time: time of the record, in epoch seconds.
        oldest_seconds: greatest age of such a record.
    """
    days = (envelope.received_at - time) / 86_400
    message = (
        f"timestamp {utc_of(time):%Y-%m-%dT%H:%M:%SZ} is {days:,.0f} days before it "
        f"was received, and {oldest_seconds / 86_400:,.0f} days are taken (oldest in "
        "kinds.yaml); is the device's clock right? If it is, replay the dead letter: "
        "meshtasks dlq replay takes it however old it is"
    )
    return InvalidTimestamp(message)


def published_at(envelope: Envelope) -> float:
    """The time at which a message was published, in epoch seconds.

    It is the AMQP timestamp if that is plausible, and otherwise the time of receipt. It
    is never later than the receipt.
    """
    stamp, received_at = envelope.timestamp, envelope.received_at
    if not stamp:
        return received_at
    if EARLIEST_SECONDS <= stamp <= received_at:  # shortcut for the usual case
        return stamp
    with suppress(InvalidTimestamp):
        return min(epoch_seconds(stamp, received_at), received_at)
    return received_at


def utc_of(seconds: float) -> datetime:
    """Convert epoch seconds to a time in UTC, limited to the years 1970 to 9998.

    It accepts every number, because files of older versions may contain any.
    """
    placed = min(max(0.0, seconds), _END_SECONDS)  # NaN becomes 0
    return datetime.fromtimestamp(placed, UTC)


def rfc3339(time: float) -> str:
    """Epoch seconds as RFC 3339 in UTC, with milliseconds and ``Z``. For times outside
    the calendar see :func:`utc_of`."""
    second, milliseconds = divmod(round(time * 1000), 1000)
    return f"{_rfc3339_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4_096)
def _rfc3339_second(second: int) -> str:
    return utc_of(second).isoformat()[:19]


def epoch_seconds(stamp: object, now: float, name: str = "timestamp") -> float:
    """Convert a timestamp to epoch seconds, if it is plausible.

    Args:
        stamp: RFC 3339 text with a zone (``2026-11-23T13:12:00+01:00``), a datetime
            with a zone, or a number since the epoch. Its unit follows from its size:
            seconds, milliseconds or, for whole numbers, micro- or nanoseconds.
        now: time of receipt, in epoch seconds.
        name: name of the field, for errors.

    Raises:
        InvalidTimestamp: the value is of another type, has no zone, is before 2000, or
            is more than a day later than ``now``.
    """
    seconds = any_moment(stamp, name)
    if EARLIEST_SECONDS <= seconds <= now + AHEAD_LIMIT_SECONDS:
        return seconds
    message = f"{name} {_implausible(stamp, seconds, now)}"
    raise InvalidTimestamp(message)


def any_moment(stamp: object, name: str = "timestamp") -> float:
    """Convert a timestamp to epoch seconds, without a limit to the past or future.

    Args:
        stamp: see :func:`epoch_seconds`.
        name: name of the field, for errors.

    Raises:
        InvalidTimestamp: the value is neither a time nor a number, or has no zone.
    """
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    if isinstance(stamp, str):
        return _read(stamp, name).timestamp()
    if _is_number(stamp):
        return float(stamp) if abs(stamp) <= _LARGEST_SECONDS else _scaled(stamp)
    message = f"{name}: expected RFC 3339 text or epoch seconds, got {described(stamp)}"
    raise InvalidTimestamp(message)


def _scaled(stamp: float) -> float:
    """Convert a number that is too large for seconds to seconds.

    It is divided once, because each division rounds. The result is exact to less than a
    microsecond.
    """
    per_second = 1_000
    if isinstance(stamp, int):
        while abs(stamp) > _LARGEST_SECONDS * per_second < _FAR:
            per_second *= 1_000
    return stamp / per_second


def _is_number(stamp: object) -> TypeGuard[float]:
    """Whether it is a number that fits into a float, unlike one of 400 digits."""
    return (
        isinstance(stamp, int | float)
        and not isinstance(stamp, bool)
        and -_FAR < stamp < _FAR
    )


def _read(text: str, name: str) -> datetime:
    """Parse a time with a zone, in RFC 3339 or another format of ISO 8601."""
    try:
        moment = msgspec.convert(text, datetime)  # the parser used for readings
    except msgspec.ValidationError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            message = (
                f'{name} "{clip(text)}" is not an RFC 3339 time such as '
                f"2026-11-23T13:12:00Z ({error})"
            )
            raise InvalidTimestamp(message) from error
    if moment.tzinfo is None:
        message = (
            f"{name} {clip(text)} has no time zone; end it with Z for UTC or with an "
            "offset such as +01:00"
        )
        raise InvalidTimestamp(message)
    return moment


def _implausible(stamp: object, seconds: float, now: float) -> str:
    if seconds < EARLIEST_SECONDS:
        return (
            f"{clip(str(stamp))} is before the year 2000; was the device's clock set?"
        )
    days = (seconds - now) / 86_400
    return (
        f"{clip(str(stamp))} is {days:.1f} days after it was received; is the device's "
        "clock or time zone right?"
    )
