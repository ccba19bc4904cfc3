"""A server that is not what its clients take it for, or not well."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from meshtasks.demo import loopback

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_DRIP_SECONDS = 0.05

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"

Lie = Callable[[socket.socket, threading.Event], None]


def answer(status: str, body: bytes = b"", *headers: str) -> Lie:
    """The same answer to everything."""

    def lie(client: socket.socket, _: threading.Event) -> None:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
        client.sendall("\r\n".join((*lines, "", "")).encode() + body)

    return lie


def hang(_: socket.socket, stopping: threading.Event) -> None:
    """Says nothing."""
    stopping.wait()


def part(data: bytes) -> Lie:
    """Closes the connection after a part of an answer."""

    def lie(client: socket.socket, _: threading.Event) -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)

    return lie


def drip(client: socket.socket, stopping: threading.Event) -> None:
    """Sends an answer byte by byte, and never comes to its end."""
    client.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not stopping.wait(_DRIP_SECONDS):
        client.sendall(b"x")


def drip_body(client: socket.socket, stopping: threading.Event) -> None:
    """The same, once the headers are whole."""
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: x\r\n\r\n")
    while not stopping.wait(_DRIP_SECONDS):
        client.sendall(b" ")


#: By what the server does.
LIES: dict[str, Lie] = {
    "login page": answer("200 OK", PAGE, "Content-Type: text/html"),
    "page without a type": answer("200 OK", PAGE),
    "redirect": answer("302 Found", b"", "Location: /login"),
    "redirect that keeps the method": answer("307 Redirect", b"", "Location: /login"),
    "wrong port": answer(
        "400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n"
    ),
    "page with a 400": answer("400 Bad Request", PAGE, "Content-Type: text/html"),
    "page with a 403": answer("403 Forbidden", PAGE, "Content-Type: text/html"),
    "page with a 500": answer("500 Internal Server Error", PAGE),
    "overloaded": answer("503 Unavailable", b"", "Retry-After: 86400"),
    "not HTTP": lambda client, _: client.sendall(b"220 ready\r\n"),
    "hanging": hang,
    "breaking off": part(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: x\r\n\r\n{"
    ),
    "breaking off in a chunk": part(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n2\r\n{}\r\n"
    ),
    "breaking off in the status": part(b"HTTP/1.1 204"),
    "breaking off after the status": part(b"HTTP/1.1 200 OK\r\n"),
    "breaking off in the headers of 204": part(
        b"HTTP/1.1 204 No Content\r\nX-Influxdb-Version: v2"
    ),
    "breaking off after a header": part(b"HTTP/1.1 200 OK\r\nETag: x\r\n"),
    "closing": part(b""),
    "dripping": drip,
    "dripping a body": drip_body,
}


class Liar:
    """Does the same to every request.

    Args:
        lie: what it does.
    """

    def __init__(self, lie: Lie) -> None:
        self._lie = lie
        self._stopping = threading.Event()
        self._socket = socket.create_server((loopback.HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self._clients: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{loopback.HOST}:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for client in self._clients:
            client.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._clients.append(client)
                threading.Thread(
                    target=self._serve, args=(client,), daemon=True
                ).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while _read_request(client):
                self._lie(client, self._stopping)


def _read_request(client: socket.socket) -> bool:
    """Read one request; false at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(65_536)
        if not chunk:
            return False
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    left = int(found[1]) - len(body) if found else 0
    while left > 0:
        left -= len(client.recv(65_536))
    return True
