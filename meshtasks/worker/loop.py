"""The event loop of the consuming process, made to keep its promise."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any


class Loop:
    """Runs callbacks in Celery's event loop at its next turn.

    kombu's hub runs what it was given with ``call_soon`` at the beginning of a turn,
    and then waits for its sockets, for up to a second. Other threads wake it; what a
    callback of its own thread adds has to wait (kombu 5.7). With the solo pool, whose
    batches run in that thread, every batch did.

    Args:
        hub: kombu's.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._wakened, self._waking = socket.socketpair()
        self._wakened.settimeout(0)
        self._waking.settimeout(0)

    def attach(self) -> None:
        """Watch the socket that wakes the hub, which forgets all when it is reset."""
        self._hub.add_reader(self._wakened, self._on_wakened)

    def soon(self, callback: Any, *args: Any) -> None:
        """Run a callback at the next turn; may be called by any thread."""
        self._hub.call_soon(callback, *args)
        with suppress(OSError):  # full, so it wakes all the same; or closed
            self._waking.send(b"\0")

    def close(self) -> None:
        """Close the sockets."""
        self._hub.remove_reader(self._wakened)
        self._wakened.close()
        self._waking.close()

    def _on_wakened(self) -> None:
        with suppress(BlockingIOError):
            self._wakened.recv(4096)
