"""A real HTTP server in a thread, which a test may stop and bring back."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from typing_extensions import override

from meshtasks.demo import loopback


class HTTPServer:
    """Serves requests with a handler class, on one port for all its life.

    Args:
        handler: serves one connection; it finds this object as ``self.owner``.
    """

    def __init__(self, handler: type[Handler]) -> None:
        self.port = loopback.free_port()
        self._handler = type(handler.__name__, (handler,), {"owner": self})
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"http://{loopback.HOST}:{self.port}"

    def start(self) -> None:
        """Listen, and serve in threads."""
        self._server = _Server((loopback.HOST, self.port), self._handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()

    def stop(self) -> None:
        """Close the port and cut every connection, as a crash would."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.cut_connections()
            server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Handler(BaseHTTPRequestHandler):
    """Base of handlers: keeps connections open between requests, logs nothing."""

    protocol_version = "HTTP/1.1"
    #: The server object, as the test knows it.
    owner: Any

    def read_body(self) -> bytes:
        """The request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is about the test."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for the handlers to end

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    @override
    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    @override
    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is no error here; everything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def cut_connections(self) -> None:
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
