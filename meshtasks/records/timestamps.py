"""A record's timestamp: RFC 3339 text or a number of seconds, milliseconds,
microseconds or nanoseconds since the epoch, into epoch seconds."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeGuard

import msgspec

from meshtasks.errors import InvalidMessage
from meshtasks.records.envelope import Envelope
from meshtasks.text import clip, described

#: Clocks of devices differ; a reading further ahead than this is a clock that is
#: wrong, and would hide every true reading behind it.
AHEAD_LIMIT_SECONDS = 86_400.0
#: A clock that was never set counts from 1970; no device of a mesh is older.
EARLIEST_SECONDS = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
#: What every calendar and every time zone can show ends before the year 9999.
_END_SECONDS = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
#: As seconds this is the year 2603, as milliseconds August 1970: larger numbers
#: are milliseconds. Whole numbers above a thousand times as much are microseconds,
#: and so on: a moment from 2000 to 2603 is the same in each of the units.
_LARGEST_SECONDS = 20_000_000_000
_FAR = 1e20
#: Two records of one second that had to wait are told apart by their receipts, and are
#: in order unless the end of such a span lies between those.
_ORDERED_SECONDS = 10.0


class InvalidTimestamp(InvalidMessage):
    """The timestamp is not a moment the mesh can place."""


def moment_of(stamp: object, envelope: Envelope) -> float:
    """When a record was made, epoch seconds.

    Args:
        stamp: the record's timestamp (see :func:`epoch_seconds`); None for the
            publisher's AMQP timestamp, or else the moment of receipt.
        envelope: the message the record came in.

    Raises:
        InvalidTimestamp: see :func:`epoch_seconds`.
    """
    if stamp is None:
        stamp = envelope.timestamp or envelope.received_at
    return epoch_seconds(stamp, envelope.received_at)


def plausible_times(envelope: Envelope, oldest_seconds: float) -> tuple[float, float]:
    """The first and the last moment, epoch seconds, at which the records of a message
    can have been made.

    Args:
        oldest_seconds: how old they may be, unless the message may be old.
    """
    received_at = envelope.received_at
    earliest = received_at - oldest_seconds
    if earliest < EARLIEST_SECONDS or (envelope.headers and envelope.may_be_old):
        earliest = EARLIEST_SECONDS
    return earliest, received_at + AHEAD_LIMIT_SECONDS


class UntimedMoments:
    """When the records of one batch were made that have no timestamp of their own, so
    that those of one series stay apart and in order.

    AMQP's timestamp has whole seconds, and a store keeps one point of a series for each
    moment. So within that second such a record has a place by its receipt: in the
    middle half if it was received within the second, in the last quarter if just
    after, in the first if clocks differ or it had to wait. Of a series' records in one
    batch that fall into one millisecond, as those of an array do, each has the next.

    The price: a message that is delivered again because its worker died is received
    anew, and may be stored twice within the second. (A retry keeps the first receipt.)
    A publisher who gives timestamps of its own pays nothing of this.
    """

    def __init__(self) -> None:
        #: Of each series the first and last millisecond of the latest run.
        self._runs: dict[str, tuple[int, int]] = {}

    def next(self, series: str, envelope: Envelope) -> float:
        """The moment of the next record of a series, epoch seconds.

        Raises:
            InvalidTimestamp: the message's AMQP timestamp cannot be.
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
    if not stamp or envelope.is_archived:  # whose receipt is the record's own time
        return epoch_seconds(received_at, received_at)
    second = epoch_seconds(stamp, received_at)
    if second != stamp or not second.is_integer():  # it was finer than a second
        return second
    late = received_at - second
    if 0 <= late < 1:
        return second + 0.25 + late / 2
    if 1 <= late < 2:  # noqa: PLR2004 - the next second
        return second + 0.75 + (late - 1) / 4
    return second + received_at % _ORDERED_SECONDS / _ORDERED_SECONDS / 4


def too_old(time: float, envelope: Envelope, oldest_seconds: float) -> InvalidTimestamp:
    """The fault of a record whose clock seems to be far behind.

    Args:
        time: its own, epoch seconds.
        oldest_seconds: how old it may be.
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
    """When a message was published, epoch seconds: its AMQP timestamp, if that can be,
    and never later than its receipt."""
    stamp, received_at = envelope.timestamp, envelope.received_at
    if not stamp:
        return received_at
    if EARLIEST_SECONDS <= stamp <= received_at:  # whole seconds, as nearly all are
        return stamp
    with suppress(InvalidTimestamp):
        return min(epoch_seconds(stamp, received_at), received_at)
    return received_at


def utc_of(seconds: float) -> datetime:
    """A moment in UTC, of the years 1970 to 9998; the nearest of those for any other.

    Every number has one: files that older versions wrote may hold any.

    Args:
        seconds: since the epoch.
    """
    placed = min(max(0.0, seconds), _END_SECONDS)  # NaN becomes 0
    return datetime.fromtimestamp(placed, UTC)


def epoch_seconds(stamp: object, now: float, name: str = "timestamp") -> float:
    """The moment a timestamp stands for.

    Args:
        stamp: RFC 3339 text with a zone (``2026-11-23T13:12:00+01:00``), the same
            already read, or a number since the epoch: of seconds or, told by how
            large it is, of milliseconds or (whole numbers) micro- or nanoseconds.
        now: epoch seconds; when the message was received.
        name: of the field it stands in.

    Returns:
        Epoch seconds.

    Raises:
        InvalidTimestamp: it is neither, has no zone, is before 2000 or more than
            a day ahead of ``now``.
    """
    seconds = any_moment(stamp, name)
    if EARLIEST_SECONDS <= seconds <= now + AHEAD_LIMIT_SECONDS:
        return seconds
    message = f"{name} {_implausible(stamp, seconds, now)}"
    raise InvalidTimestamp(message)


def any_moment(stamp: object, name: str = "timestamp") -> float:
    """The moment a timestamp stands for, epoch seconds, however far it is from now.

    Args:
        stamp: see :func:`epoch_seconds`.
        name: of the field it stands in.

    Raises:
        InvalidTimestamp: it is neither text nor number, or has no zone.
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
    """The seconds in a number that is too large to be some.

    One division, since each would round: a float of seconds is exact to less than a
    microsecond.
    """
    per_second = 1_000
    if isinstance(stamp, int):
        while abs(stamp) > _LARGEST_SECONDS * per_second < _FAR:
            per_second *= 1_000
    return stamp / per_second


def _is_number(stamp: object) -> TypeGuard[float]:
    """A JSON number that can be calculated with: not one of 400 digits."""
    return (
        isinstance(stamp, int | float)
        and not isinstance(stamp, bool)
        and -_FAR < stamp < _FAR
    )


def _read(text: str, name: str) -> datetime:
    """A time with a zone; RFC 3339 and other spellings of ISO 8601."""
    try:
        moment = msgspec.convert(text, datetime)  # as it reads those of readings
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
