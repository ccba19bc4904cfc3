"""JSON as text: its parts exactly as they were written."""

from __future__ import annotations

import json

#: Numbers are passed over as text: turning them into numbers takes longer, and
#: fails for one of more than 4,300 digits.
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)

_SEVERAL = 2
_SPACE = " \t\r\n"


def members_of(body: bytes) -> list[bytes]:
    """The records in a message's body, each exactly as it was written: the members
    of an array, or else the body without the white space around it.

    Args:
        body: JSON in UTF-8, known to be valid.
    """
    stripped = body.strip()
    return array_members(stripped) if stripped[:1] == b"[" else [stripped]


def array_members(body: bytes) -> list[bytes]:
    """The members of a JSON array, each exactly as it was written.

    Args:
        body: a JSON array in UTF-8, known to be valid.
    """
    text = body.decode("utf-8")
    members: list[bytes] = []
    place = _past_space(text, text.index("[") + 1)
    while text[place : place + 1] != "]":
        _, end = _SCANNER.raw_decode(text, place)
        members.append(text[place:end].encode("utf-8"))
        place = _past_space(text, end)
        if text[place : place + 1] == ",":
            place = _past_space(text, place + 1)
    return members


def objects_one_a_line(body: bytes) -> list[bytes]:
    """The lines of a body that is several JSON objects, one a line (JSON lines,
    NDJSON), without blank ones; none if it is something else.

    It is JSON lines when its first line is an object by itself, or when each line
    begins one; so single lines may be damaged, and an object that is written over
    several lines is not taken for lines.

    Args:
        body: that begins with ``{``; anything else.
    """
    lines = [line for each in body.split(b"\n") if (line := each.strip())]
    if len(lines) < _SEVERAL:
        return []
    if all(line[:1] == b"{" for line in lines) or _is_object(lines[0]):
        return lines
    return []


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text, parse_int=str, parse_float=str), dict)
    except (ValueError, RecursionError):
        return False


def object_member(text: bytes, name: str) -> bytes:
    """The value of one member of a JSON object, exactly as it was written.

    Args:
        text: a JSON object in UTF-8, known to be valid and to have the member; the
            last of that name counts, as it does to parsers.
        name: of the member.
    """
    source = text.decode("utf-8")
    found = b""
    place = _past_space(source, source.index("{") + 1)
    while source[place : place + 1] != "}":
        key, place = _SCANNER.raw_decode(source, place)
        start = _past_space(source, _past_space(source, place) + 1)  # past the colon
        _, place = _SCANNER.raw_decode(source, start)
        if key == name:
            found = source[start:place].encode("utf-8")
        place = _past_space(source, place)
        if source[place : place + 1] == ",":
            place = _past_space(source, place + 1)
    return found


def on_one_line(json_text: bytes) -> bytes:
    """The same JSON without line breaks.

    A raw line break in valid JSON is always white space between tokens (in a
    string it must be escaped), so a space says the same.
    """
    if b"\n" in json_text or b"\r" in json_text:
        return json_text.replace(b"\n", b" ").replace(b"\r", b" ")
    return json_text


def first_not_json_number(json_text: bytes) -> str | None:
    """``NaN``, ``Infinity`` or ``-Infinity`` if one stands in the text as a value.

    They are not JSON (RFC 8259, section 6), but common parsers let them pass.
    """
    if b"NaN" not in json_text and b"Infinity" not in json_text:
        return None
    found: list[str] = []
    json.loads(json_text, parse_int=str, parse_float=str, parse_constant=found.append)
    return found[0] if found else None


def _past_space(text: str, place: int) -> int:
    while text[place : place + 1] and text[place] in _SPACE:
        place += 1
    return place
