"""MQTT 3.1.1 by hand: topics of any bytes, which no client library would send."""

from __future__ import annotations

import socket
from contextlib import closing

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 0x10, 0x20, 0x32, 0x40
_CLEAN, _WILL, _PASSWORD, _USER = 0x02, 0x04, 0x40, 0x80


def publish(
    address: tuple[str, int], account: tuple[str, str], topic: bytes, payload: bytes
) -> bool:
    """Publish with QoS 1; whether the broker confirmed it, rather than hanging up."""
    with closing(_connected(address, account)) as client:
        client.sendall(_packet(_PUBLISH, _field(topic) + b"\0\x01" + payload))
        return _kind(client) == _PUBACK


def leave_a_will(
    address: tuple[str, int], account: tuple[str, str], topic: bytes, payload: bytes
) -> None:
    """Connect with a last will and be gone without a word, so that it is published."""
    client = _connected(address, account, will=(topic, payload))
    client.close()


def _connected(
    address: tuple[str, int],
    account: tuple[str, str],
    will: tuple[bytes, bytes] | None = None,
) -> socket.socket:
    client = socket.create_connection(address, timeout=300)
    flags = _CLEAN | _USER | _PASSWORD | (_WILL if will else 0)
    parts = [b"raw", *(will or ()), *(text.encode() for text in account)]
    head = _field(b"MQTT") + bytes([4, flags, 0, 60])
    try:
        client.sendall(_packet(_CONNECT, head + b"".join(map(_field, parts))))
        assert _kind(client) == _CONNACK
    except (OSError, AssertionError):
        client.close()
        raise
    return client


def _kind(client: socket.socket) -> int | None:
    """The kind of the next packet; None if the broker hung up."""
    try:
        answer = client.recv(4)
    except ConnectionResetError:
        return None
    return answer[0] if answer else None


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _packet(kind: int, content: bytes) -> bytes:
    remaining, length = len(content), bytearray()
    while True:
        remaining, low = divmod(remaining, 128)
        length.append(low | (128 if remaining else 0))
        if not remaining:
            return bytes([kind, *length]) + content
