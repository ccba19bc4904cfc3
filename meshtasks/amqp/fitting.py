"""Properties and headers that anybody may have chosen, made such that they can be
published.

All properties and headers of a message have to fit into one frame; RabbitMQ answers a
larger one with the end of the connection. What a sender sent just fitted, and what the
mesh says of a failure comes in addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from amqp import Message

from meshtasks.amqp import headers
from meshtasks.amqp.frames import Outgoing, content_header_bytes, table_bytes
from meshtasks.text import clip

_SHORT_TEXT_BYTES = 255
_LARGEST_TIMESTAMP = 2**64 - 1
#: Room for what is told of headers that are left out, their name included, and how
#: much is told of a value that cannot be encoded.
_NOTE_CHARS = 400
_VALUE_CHARS = 200
#: A table's length, and its length and type of each text.
_TABLE_OVERHEAD_BYTES = 32
_KINDS = dict(Message.PROPERTIES)


def fitted(message: Outgoing, frame_max: int) -> Outgoing:
    """The message with what fits into a frame; a header tells what does not.

    The mesh's own headers are kept first, and small ones before large ones. Texts that
    may be no longer are cut; a value of a type that AMQP does not know becomes text.

    Args:
        message: to be published.
        frame_max: largest frame agreed upon with the broker, in bytes.
    """
    bare = message._replace(
        message_id=message.message_id and _short(message.message_id),
        timestamp=_whole_seconds(message.timestamp),
        headers={},
        properties=_properties(message.properties or {}),
    )
    room = frame_max - content_header_bytes(bare) - _NOTE_CHARS - _TABLE_OVERHEAD_BYTES
    sizes: list[tuple[bool, int, str, object]] = []
    for name, sent in (message.headers or {}).items():
        value, size = _encodable(_short(str(name)), sent)
        sizes.append((not str(name).startswith("x-mesh-"), size, str(name), value))
    kept: dict[str, object] = {}
    omitted: list[tuple[str, int]] = []
    for _, size, name, value in sorted(sizes, key=lambda each: each[:2]):
        if size <= room:
            room -= size
            kept[_short(name)] = value
        else:
            omitted.append((name, size))
    if omitted:
        names = ", ".join(f"{name} ({size:,} bytes)" for name, size in omitted)
        note = f"{len(omitted)} that do not fit into a frame: {names}"
        kept[headers.OMITTED] = clip(_ascii(note), _NOTE_CHARS - 100)
    return bare._replace(headers=kept)


def _properties(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The properties whose values are such as they may be; texts are cut."""
    found: dict[str, Any] = {}
    for name, value in sent.items():
        match _KINDS.get(name), value:
            case "s", str():
                found[name] = _short(value)
            case "o", int() if 0 <= value <= _SHORT_TEXT_BYTES:
                found[name] = value
            case "L", int() | float() | datetime():
                if (seconds := _whole_seconds(value)) is not None:
                    found[name] = seconds
            case _, None:
                found[name] = None
            case _:
                pass  # AMQP has no such property, or not with such a value
    return found


def _whole_seconds(value: float | datetime | None) -> int | None:
    """A timestamp as AMQP has it; None if it has no such."""
    try:
        seconds = value.timestamp() if isinstance(value, datetime) else value
        whole = None if seconds is None else int(seconds)
    except (ValueError, OverflowError):
        return None
    return whole if whole is None or 0 <= whole <= _LARGEST_TIMESTAMP else None


def _short(text: str) -> str:
    """As much of a text as a short string holds."""
    encoded = text.encode("utf-8", "backslashreplace")
    return encoded[:_SHORT_TEXT_BYTES].decode(errors="ignore")


def _encodable(name: str, value: object) -> tuple[object, int]:
    """A header's value, or text in its place, and how many bytes the header takes."""
    try:
        return value, table_bytes({name: value})
    except Exception:  # noqa: BLE001 - py-amqp raises whatever an odd value leads to
        text = _ascii(_shown(value))
        return text, table_bytes({name: text})


def _shown(value: object) -> str:
    try:
        return clip(repr(value), _VALUE_CHARS)
    except RecursionError:
        return "(nested too deep)"


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
