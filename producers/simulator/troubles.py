"""What devices of the house raise alerts about by themselves, and when it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from typing_extensions import override

from producers.simulator.sensors import Emission, Source, utc_time

EXCHANGE = "alerts"

#: By the house's clock, between two pieces of news.
_INTERVAL_MS = 1_000
#: So many go on at the same time; then the first one is over.
_AT_ONCE = 4


class Trouble(NamedTuple):
    """Something that devices warn of."""

    severity: str
    source: str
    title: str
    message: str


TROUBLES = (
    Trouble("info", "washing_machine", "{} laundry is done", "It waits in the {}."),
    Trouble("warning", "leak_sensor", "Water in the {}", "The {} is wet."),
    Trouble("critical", "smoke_detector", "Smoke in the {}", "Smoke in the {}!"),
    Trouble("warning", "window_contact", "{} window is open", "It rains; see the {}."),
)


class _Going(NamedTuple):
    trouble: Trouble
    room: str
    since_ms: int


class Troubles(Source):
    """One trouble after the other, in one room after the other, and each is over
    some seconds later."""

    def __init__(self, rooms: Sequence[str]) -> None:
        super().__init__(_INTERVAL_MS)
        self._rooms = rooms
        self._going: deque[_Going] = deque()
        self._begun = 0

    @override
    def _say(self, now_ms: int) -> Emission | None:
        if len(self._going) == _AT_ONCE:
            going, resolved = self._going.popleft(), True
        else:
            rounds, place = divmod(self._begun, len(self._rooms))
            room = self._rooms[place]
            trouble = TROUBLES[(place + rounds) % len(TROUBLES)]
            going, resolved = _Going(trouble, room, now_ms), False
            self._going.append(going)
            self._begun += 1
        record = alert_record(
            going.trouble, going.room, utc_time(going.since_ms), resolved=resolved
        )
        key = alert_key(going.trouble)
        return Emission(EXCHANGE, key, now_ms / 1000, [record])


def alert_key(trouble: Trouble) -> str:
    """The routing key of an alert."""
    return f"alerts.{trouble.severity}.{trouble.source}"


def alert_record(
    trouble: Trouble, room: str, starts_at: object, *, resolved: bool = False
) -> dict[str, object]:
    """An alert: it begins, or it is over."""
    place = room.replace("_", " ")
    title = trouble.title.format(place)
    return {
        "title": title[:1].upper() + title[1:],
        "message": "It is over." if resolved else trouble.message.format(place),
        "severity": trouble.severity,
        "source": trouble.source,
        "labels": {"location": room, "device": f"{trouble.source}-{room}"},
        "starts_at": starts_at,
        "resolved": resolved,
    }
