"""JSON as text: its parts exactly as they were written, and what may be around it."""

from __future__ import annotations

import json
import math
import re
import zlib

import msgspec
from pydantic_core import from_json

from meshtasks.errors import UndecodableMessage
from meshtasks.text import clip

#: Numbers are passed over as text: turning them into numbers takes longer, and
#: fails for one of more than 4,300 digits.
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)

#: These slice valid JSON 8 times as fast as the scanner, which is for the rest.
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: What they raise for JSON that is not valid, or nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SEVERAL = 2
_SPACE = " \t\r\n"

#: Deeper nesting is refused, since every later parser has a limit of its own; this is
#: the lowest that parsers in use are known to have.
DEPTH_LIMIT = 64
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
#: Every bracket becomes a square one.
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
#: A string, closed or not (possessive, so that none is tried twice), or a token.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[][{},]', re.DOTALL)

#: Every digit as 0, and exponents alike, to find what may be too large a number.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG, _GREAT = b"0" * 200, b"e000"

_UTF_8_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
#: How zlib begins what HTTP and AMQP call deflate (RFC 1950), by the level.
_DEFLATE = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
#: What cannot be read, by its first bytes.
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with LZ4",
    b"\xfd7zX": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"PK\x03\x04": "a ZIP file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00": "UTF-16 or UTF-32",
}
_FOREIGN_STARTS = tuple(_FOREIGN)


def plain_body(body: bytes, limit_bytes: int) -> bytes:
    """A body without compression and byte order mark; the same object if it has none.

    Both are recognized by the first bytes, not by ``content_encoding``: MQTT cannot set
    that, many clients set it to the name of a character set, and no JSON begins so.

    Args:
        limit_bytes: the largest that it may become.

    Raises:
        UndecodableMessage: it is compressed and damaged, too large, or not readable.
    """
    if body[:2] == _GZIP or (body[:2] in _DEFLATE and not body.isascii()):
        body = _inflated(body, limit_bytes)
    if body.startswith(_FOREIGN_STARTS):
        what = next(_FOREIGN[start] for start in _FOREIGN if body.startswith(start))
        message = (
            f"the body is {what}; expected JSON in UTF-8, plain or compressed with "
            "gzip or deflate"
        )
        raise UndecodableMessage(message)
    return body.removeprefix(_UTF_8_MARK)


def _inflated(body: bytes, limit_bytes: int) -> bytes:
    """The content of gzip (of one part or several) or zlib. Never more than the limit
    is unpacked, whatever the body claims."""
    parts: list[bytes] = []
    room = limit_bytes
    rest = body
    try:
        while rest:
            unpacking = zlib.decompressobj(_GZIP_OR_ZLIB)
            part = unpacking.decompress(rest, room + 1)
            room -= len(part)
            if room < 0:
                message = (
                    f"the body is compressed, and plain it has more than "
                    f"{limit_bytes:,} bytes (max_message_bytes)"
                )
                raise UndecodableMessage(message)
            if not unpacking.eof:
                message = "the compressed body ends in the middle"
                raise UndecodableMessage(message)
            parts.append(part)
            rest = unpacking.unused_data
    except zlib.error as error:
        message = f"the compressed body is damaged: {error}"
        raise UndecodableMessage(message) from error
    return b"".join(parts)


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
        body: a JSON array; what is not valid inside a member stays in that member.

    Raises:
        ValueError: it is not an array from its first byte to its last.
    """
    try:
        return [bytes(member) for member in _MEMBERS.decode(body)]
    except _UNREADABLE:
        return scanned_members(body)


def scanned_members(body: bytes) -> list[bytes]:
    """The members of an array that may hold NaN, be nested too deep or not valid."""
    try:
        return _members_to_the_end(body.decode("utf-8"))
    except (ValueError, IndexError, RecursionError):
        return _members_of_any(body)


def _members_to_the_end(text: str) -> list[bytes]:
    """The members of an array, whatever stands around it."""
    members: list[bytes] = []
    position = _past_space(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        _, end = _SCANNER.raw_decode(text, position)
        members.append(text[position:end].encode("utf-8"))
        position = _past_space(text, end)
        if text[position] == ",":
            position = _past_space(text, position + 1)
        elif text[position] != "]":
            raise ValueError(position)
    return members


def _members_of_any(body: bytes) -> list[bytes]:
    """The members of an array by its brackets, commas and quotes alone."""
    stripped = body.strip()
    members: list[bytes] = []
    depth = start = 0
    for token in _TOKEN.finditer(stripped):
        what = token[0]
        if what in (b"[", b"{"):
            depth += 1
            start = start or token.end()
        elif what == b"," and depth == 1:
            members.append(stripped[start : token.start()].strip())
            start = token.end()
        elif what in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                if token.end() != len(stripped) or stripped[:1] + what != b"[]":
                    break
                members.append(stripped[start : token.start()].strip())
                return members
    message = "the brackets of the array do not match"
    raise ValueError(message)


def objects_one_a_line(body: bytes) -> list[bytes]:
    """The lines of a body that is several JSON objects, one a line (JSON lines,
    NDJSON), without blank ones; none if it is something else.

    It is JSON lines when its first line is an object by itself, or when each line
    begins one; so single lines may be damaged, and an object that is written over
    several lines is not taken for lines.

    Args:
        body: that begins with ``{``; anything else.
    """
    lines = list(filter(None, map(bytes.strip, body.split(b"\n"))))
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
    try:
        return bytes(_OBJECT.decode(text).get(name, b""))
    except _UNREADABLE:
        return scanned_member(text.decode("utf-8"), name)


def scanned_member(source: str, name: str) -> bytes:
    """The value of a member of an object that may hold NaN or be nested too deep."""
    found = b""
    position = _past_space(source, source.index("{") + 1)
    while source[position : position + 1] != "}":
        key, position = _SCANNER.raw_decode(source, position)
        start = _past_space(source, _past_space(source, position) + 1)  # past the colon
        _, position = _SCANNER.raw_decode(source, start)
        if key == name:
            found = source[start:position].encode("utf-8")
        position = _past_space(source, position)
        if source[position : position + 1] == ",":
            position = _past_space(source, position + 1)
    return found


def on_one_line(json_text: bytes) -> bytes:
    """The same JSON without line breaks.

    A raw line break in valid JSON is always white space between tokens (in a
    string it must be escaped), so a space is equivalent.
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


def is_too_deep(json_text: bytes) -> bool:
    """Whether it is nested deeper than :data:`DEPTH_LIMIT`, brackets that are never
    closed included. Takes as much memory as the text, however deep that is."""
    if json_text.count(b"[") + json_text.count(b"{") <= DEPTH_LIMIT:
        return False
    if b"\\" in json_text:
        json_text = _ESCAPE.sub(b"", json_text)
    skeleton = json_text.translate(_TO_SQUARE, _NEITHER_BRACKET_NOR_QUOTE)
    skeleton = skeleton.replace(b'""', b"")
    if b'"' in skeleton:  # strings that hold brackets
        skeleton = _STRING.sub(b"", skeleton)
    for _ in range(DEPTH_LIMIT):
        if not skeleton:
            return False
        skeleton = skeleton.replace(b"[]", b"")  # the innermost level
    return bool(skeleton)


def refusal_of(json_text: bytes) -> str | None:
    """Why a text that parsers take is not taken here; None if nothing is wrong.

    Args:
        json_text: JSON in UTF-8, valid but for NaN and Infinity.
    """
    if is_too_deep(json_text):
        return f"the body is nested deeper than {DEPTH_LIMIT} levels"
    if found := first_not_json_number(json_text):
        return f"the body is not JSON: {found} is not a number there"
    digits = json_text.translate(_DIGITS, b"+")
    if _GREAT in digits or _LONG in digits:
        great: list[str] = []

        def look(number: str) -> None:
            if not math.isfinite(float(number)):
                great.append(number)

        json.loads(json_text, parse_int=look, parse_float=look)
        if great:
            return f"the number {clip(great[0], 20)} in the body is too large"
    return None


def _past_space(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in _SPACE:
        position += 1
    return position


def body_text(body: bytes) -> str:
    """A body as text: JSON is indented, and bytes that are not UTF-8 are escaped."""
    try:
        value = from_json(body, allow_inf_nan=False)
        return json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):  # Python also writes no number of 4,301 digits
        return body.decode("utf-8", "backslashreplace")
