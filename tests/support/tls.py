"""A TLS listener in front of a port, as a broker's own would be."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

HOST = "localhost"
_READ_BYTES = 65_536


class TLSListener:
    """Takes TLS connections and forwards what is in them.

    Args:
        target_port: where to, on loopback.
        certificate: in PEM format.
        key: of the certificate.
    """

    def __init__(self, target_port: int, certificate: Path, key: Path) -> None:
        self._target_port = target_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._take, daemon=True)]
        self.port: int = self._listener.getsockname()[1]

    def url(self, amqp_url: str) -> str:
        """The same URL by TLS."""
        head, _, tail = amqp_url.partition("@")
        vhost = tail.partition("/")[2]
        return f"{head.replace('amqp://', 'amqps://')}@{HOST}:{self.port}/{vhost}"

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with suppress(OSError):  # a handshake that fails, too
                    client = self._context.wrap_socket(plain, server_side=True)
                    node = socket.create_connection(("127.0.0.1", self._target_port))
                    self._sockets += [client, node]
                    for ends in ((client, node), (node, client)):
                        thread = threading.Thread(target=_pump, args=ends, daemon=True)
                        thread.start()
                        self._threads.append(thread)

    def close(self) -> None:
        """Cut every connection, and take none any more."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(300)
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(_READ_BYTES):
            target.sendall(some)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
