"""What is around the JSON of a body: a compression, a byte order mark.

Both are told by the first bytes, not by ``content_encoding``: MQTT cannot set that,
many a client sets it to the name of a character set, and no JSON begins so.
"""

from __future__ import annotations

import zlib

from meshtasks.errors import UndecodableMessage

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
    """A body without what is around it; the same object if nothing is.

    Args:
        body: as it was published.
        limit_bytes: the largest that it may become.

    Raises:
        UndecodableMessage: it is compressed and damaged, too large, or not readable.
    """
    if body[:2] == _GZIP or (body[:2] in _DEFLATE and not body.isascii()):
        body = _inflated(body, limit_bytes)
    if body.startswith(_FOREIGN_STARTS):
        what = next(_FOREIGN[each] for each in _FOREIGN if body.startswith(each))
        message = (
            f"the body is {what}; expected JSON in UTF-8, plain or compressed with "
            "gzip or deflate"
        )
        raise UndecodableMessage(message)
    return body.removeprefix(_UTF_8_MARK)


def _inflated(body: bytes, limit_bytes: int) -> bytes:
    """What gzip (of one part or several) or zlib has compressed. Never more than the
    limit is unpacked, whatever the body claims."""
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
