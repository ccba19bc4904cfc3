"""A TCP proxy whose connections a test can cut, as a bad network would."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import Self

HOST = "127.0.0.1"
_READ_BYTES = 65_536


class Proxy:
    """Forwards connections to a port on loopback.

    Args:
        target_port: where to.
        cut_after_bytes: cut the first connection once a client has sent this
            much through it.
    """

    def __init__(self, target_port: int, cut_after_bytes: int | None = None) -> None:
        self._target_port = target_port
        self._cut_after_bytes = cut_after_bytes
        self._listener = socket.create_server((HOST, 0))
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._sent_bytes = 0
        self._open = True
        self._frozen = False
        self._lock = threading.Lock()
        self._wake_up, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port: int = self._listener.getsockname()[1]
        #: Connections cut so far.
        self.cuts = 0

    def url(self, amqp_url: str) -> str:
        """The same URL by way of the proxy."""
        return amqp_url.replace(f":{self._target_port}/", f":{self.port}/")

    def cut(self) -> None:
        """Cut every connection; new ones are taken."""
        with self._lock:
            for peer in tuple(self._clients):
                self._drop(peer)

    def close_door(self) -> None:
        """Cut every connection and refuse new ones."""
        with self._lock:
            self._open = False
        self.cut()

    def open_door(self) -> None:
        """Take new connections again."""
        with self._lock:
            self._open = True

    def freeze(self) -> None:
        """Forward nothing any more, over connections that stay open."""
        with self._lock:
            self._frozen = True
            for each in self._peers:
                self._selector.unregister(each)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waker.send(b"x")
        self._thread.join()
        self.cut()
        for each in (self._listener, self._wake_up, self._waker):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_up:
                    return
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._peers:
                        assert isinstance(key.fileobj, socket.socket)
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._open:
            client.close()
            return
        server = socket.create_connection((HOST, self._target_port))
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            if not self._frozen:
                self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(_READ_BYTES)
            if data:
                self._peers[source].sendall(data)
        except OSError:  # either side went away
            data = b""
        if not data:
            self._drop(source)
            return
        if source in self._clients and self._cut_after_bytes is not None:
            self._sent_bytes += len(data)
            if self._sent_bytes >= self._cut_after_bytes:
                self._cut_after_bytes = None
                self._drop(source)

    def _drop(self, one: socket.socket) -> None:
        other = self._peers.pop(one)
        del self._peers[other]
        for each in (one, other):
            if not self._frozen:
                self._selector.unregister(each)
            each.close()
            self._clients.discard(each)
        self.cuts += 1
