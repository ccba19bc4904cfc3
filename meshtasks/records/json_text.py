"""JSON as text: extracts parts with their exact bytes, decompresses, checks limits."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator

import msgspec
from pydantic_core import from_json

from meshtasks.errors import UndecodableMessage
from meshtasks.text import clip

#: Numbers stay text: converting them takes longer, and fails for numbers of more than
#: 4,300 digits.
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)

#: Decoders for valid JSON, 8 times as fast as the scanner, which handles the rest.
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: Exceptions of these decoders for JSON that is invalid or nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SEVERAL = 2
_SPACE = " \t\r\n"

#: Most levels of nesting that are accepted. Other parsers, which read the record later,
#: have limits as well; this is the lowest known one.
DEPTH_LIMIT = 64
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
#: Converts braces to square brackets.
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
#: A string, closed or not, or a bracket or comma. The quantifier is possessive, which
#: avoids backtracking.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[][{},]', re.DOTALL)

#: Converts digits to 0 and E to e, to find numbers that may be too large.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG, _GREAT = b"0" * 200, b"e000"

_UTF_8_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
#: First bytes of "deflate" data of HTTP and AMQP (RFC 1950), by compression level.
_DEFLATE = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
#: Formats that are not supported, by their first bytes.
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
    """Remove compression and byte order mark from a body.

    Both are recognised by the first bytes, which JSON never starts with.
    ``content_encoding`` is ignored: MQTT cannot set it, and many clients put the name
    of a character set there.

    Args:
        limit_bytes: greatest size after decompression.

    Returns:
        The plain body; the same object if there is nothing to remove.

    Raises:
        UndecodableMessage: the body is damaged, too large after decompression, or of an
            unsupported format.
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
    """Decompress gzip, with one or several members, or zlib.

    It stops at the limit, so that a small body cannot use much memory.
    """
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
    """The records in a body, with their exact bytes.

    These are the members of an array, or else the body without surrounding white space.

    Args:
        body: valid JSON in UTF-8.
    """
    stripped = body.strip()
    return array_members(stripped) if stripped[:1] == b"[" else [stripped]


def array_members(body: bytes) -> list[bytes]:
    """The members of a JSON array, with their exact bytes.

    Args:
        body: a JSON array; members may be invalid JSON.

    Raises:
        ValueError: the body is not one array from its first to its last byte.
    """
    try:
        return [bytes(member) for member in _MEMBERS.decode(body)]
    except _UNREADABLE:
        return scanned_members(body)


def scanned_members(body: bytes) -> list[bytes]:
    """:func:`array_members`, slower, for NaN, deep nesting and invalid JSON."""
    try:
        return _members_to_the_end(body.decode("utf-8"))
    except (ValueError, IndexError, RecursionError):
        return _members_of_any(body)


def _members_to_the_end(text: str) -> list[bytes]:
    """The members of an array, whatever precedes or follows it."""
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
    """The members of an array, found only by brackets, commas and quotes."""
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
    """The non-blank lines of a body in JSON lines (NDJSON); empty for other bodies.

    A body is JSON lines if its first line is a whole object, or if every line starts
    with ``{``. So single lines may be damaged, and an indented object is not mistaken
    for lines.

    Args:
        body: a body that starts with ``{``.
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
    """The value of a member of a JSON object, with its exact bytes.

    Args:
        text: valid JSON object in UTF-8, with the member. If the name occurs more than
            once, the last value is returned, as by parsers.
        name: name of the member.
    """
    try:
        return bytes(_OBJECT.decode(text).get(name, b""))
    except _UNREADABLE:
        return scanned_member(text.decode("utf-8"), name)


def scanned_member(source: str, name: str) -> bytes:
    """:func:`object_member` for objects with NaN or deep nesting; slower."""
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
    """Replace the line breaks of valid JSON by spaces.

    Both are white space between tokens; inside strings line breaks are escaped.
    """
    if b"\n" in json_text or b"\r" in json_text:
        return json_text.replace(b"\n", b" ").replace(b"\r", b" ")
    return json_text


def first_not_json_number(json_text: bytes) -> str | None:
    """The first ``NaN``, ``Infinity`` or ``-Infinity`` that is a value in the text.

    They are not JSON (RFC 8259, section 6), although common parsers accept them. None
    if there is none.
    """
    if b"NaN" not in json_text and b"Infinity" not in json_text:
        return None
    found: list[str] = []
    json.loads(json_text, parse_int=str, parse_float=str, parse_constant=found.append)
    return found[0] if found else None


def is_too_deep(json_text: bytes) -> bool:
    """Whether the text is nested deeper than :data:`DEPTH_LIMIT`.

    Brackets that are never closed count as well. The memory used is proportional to the
    size of the text, and does not depend on the depth.
    """
    if json_text.count(b"[") + json_text.count(b"{") <= DEPTH_LIMIT:
        return False
    if b"\\" in json_text:
        json_text = _ESCAPE.sub(b"", json_text)
    skeleton = json_text.translate(_TO_SQUARE, _NEITHER_BRACKET_NOR_QUOTE)
    skeleton = skeleton.replace(b'""', b"")
    if b'"' in skeleton:  # strings with brackets in them
        skeleton = _STRING.sub(b"", skeleton)
    for _ in range(DEPTH_LIMIT):
        if not skeleton:
            return False
        skeleton = skeleton.replace(b"[]", b"")  # the innermost level
    return bool(skeleton)


def refusal_of(json_text: bytes) -> str | None:
    """Why a text that parsers accept is refused by the mesh; None if it is accepted.

    Args:
        json_text: JSON in UTF-8, valid except for NaN and Infinity.
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
    except (ValueError, RecursionError):  # also raised for numbers of 4,301 digits
        return body.decode("utf-8", "backslashreplace")


def arrays_of(texts: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Join JSON texts into arrays, in order, each up to a size in bytes. A larger text
    has an array of its own."""
    together: list[bytes] = []
    size_bytes = 0
    for text in texts:
        if together and size_bytes + len(text) > limit_bytes:
            yield b"[" + b",\n".join(together) + b"]"
            together, size_bytes = [], 0
        together.append(text)
        size_bytes += len(text)
    if together:
        yield b"[" + b",\n".join(together) + b"]"
