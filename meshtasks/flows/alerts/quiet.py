"""Quiet hours, by the clock on the wall."""

from __future__ import annotations

from datetime import datetime, time, timedelta, tzinfo
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from meshtasks.records.timestamps import utc_of


def local_time(now: float, zone: tzinfo | None) -> datetime:
    """A moment as the clock on the wall shows it; see
    :func:`~meshtasks.records.timestamps.utc_of` for those that no clock shows.

    Args:
        now: epoch seconds.
        zone: time zone; the host's own when None.
    """
    return utc_of(now).astimezone(zone)


def _clock_time(value: Any) -> time:
    # YAML 1.1 reads an unquoted 22:00 as the base-60 number 1320.
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%H:%M").time()  # noqa: DTZ007 - a time of day
        except ValueError:
            pass
    message = f'expected a time of day in quotes such as "22:00", got {value!r}'
    raise ValueError(message)


_ClockTime = Annotated[time, BeforeValidator(_clock_time)]


class QuietHours(BaseModel):
    """The hours in which only critical alerts may notify.

    Attributes:
        start: the first minute of them, ``from`` in the file.
        end: the first minute after them, ``to`` in the file; the next day's if it
            is earlier than the start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    start: Annotated[_ClockTime, Field(alias="from")]
    end: Annotated[_ClockTime, Field(alias="to")]

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.start == self.end:
            message = "from and to must differ"
            raise ValueError(message)
        return self

    def end_of(self, now: float, zone: tzinfo | None) -> float | None:
        """When the quiet hours end that cover ``now``; None if none do.

        Args:
            now: epoch seconds.
            zone: time zone; the host's own when None.

        Returns:
            Epoch seconds.
        """
        here = local_time(now, zone)
        clock = here.time()
        if self.start < self.end:
            quiet = self.start <= clock < self.end
        else:
            quiet = clock >= self.start or clock < self.end
        if not quiet:
            return None
        day = here.date() if clock < self.end else here.date() + timedelta(days=1)
        ends = datetime.combine(day, self.end, tzinfo=zone)
        # The offset of that moment, not of now: a clock change may lie between.
        return (ends if zone else ends.astimezone()).timestamp()
