"""What a format makes of a message: a document, and what each value in it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from producers.sensornet.payload import Path

#: Reasons why a value is no reading. They are counted, so there are few.
UNKNOWN = "kind unknown"
UNAVAILABLE = "unavailable"
COMPUTED = "computed by a template"
REPEATED = "said in another unit, too"
SETTING = "setting"


class Ignored(NamedTuple):
    """A message that holds no reading, by its nature.

    Attributes:
        reason: in a word or two, the same for all of its sort: it is counted.
    """

    reason: str


class DeviceTime(NamedTuple):
    """A clock's reading that perhaps names no zone: ``2019-01-01T00:00:00``."""

    text: str


class Meaning(NamedTuple):
    """What a value is.

    Attributes:
        kind: what it is a value of.
        unit: its unit, where the message itself says it.
        usual: its unit, if nobody says one.
        part: which of the device's sensors; empty when it has one of the kind.
        inverted: of a state, when the device says the opposite of the kind.
        stamp: when this value alone was measured (see :class:`Payload`).
        is_guess: whether it follows from a name that its owner chose.
    """

    kind: str
    unit: str | None = None
    usual: str | None = None
    part: str = ""
    inverted: bool = False
    stamp: object = None
    is_guess: bool = False


class Passed(NamedTuple):
    """A value that is no reading, as far as its format knows.

    Attributes:
        reason: why; it is counted.
        part: which of the device's sensors it is, should the device announce it.
        stamp: when this value alone was measured (see :class:`Payload`).
    """

    reason: str = UNKNOWN
    part: str = ""
    stamp: object = None


#: None is a value that describes others: a unit, a time, an address.
Judgement = Meaning | Passed | None


@dataclass(frozen=True, slots=True)
class Payload:
    """One message of a device.

    Attributes:
        device: which device, in the levels of its topic: ``kitchen/floor_lamp``.
        document: what it holds: JSON, or the text of a single value.
        judge: what the value at a path is.
        stamp: when it was measured, in the device's words: RFC 3339 text, epoch
            seconds or milliseconds, or a :class:`DeviceTime`; None when it does not
            say.
        name: what a document is called that is a single value.
        elsewhere: routing key on which a part of the document is published, too →
            its path. What is announced of that is announced of this part.
    """

    device: str
    document: object
    judge: Callable[[Path, object], Judgement]
    stamp: object = None
    name: str = "the body"
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
