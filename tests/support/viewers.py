"""Pages that are open without a browser: what one would ask for, and what it is sent.

The web socket speaks Socket.IO 5 over Engine.IO 4 (https://socket.io/docs/v4/protocols).
"""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack, suppress
from html import unescape
from typing import Any, Self
from urllib.parse import urlencode

import requests
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

_ELEMENTS = re.compile(r"parseElements\(String\.raw`(.*?)`\)", re.DOTALL)
_CLIENT = re.compile(r"""["']client_id["']:\s*["']([^"']+)["']""")
_PING, _PONG = "2", "3"


class Viewer:
    """A page that is open.

    Args:
        url: of the gateway.
        cookie: of the session, as ``name=value``.
        path: of the page.
        origin: of the page that opens the web socket, if not the gateway's own.
    """

    def __init__(
        self, url: str, cookie: str, path: str = "/", origin: str | None = None
    ) -> None:
        self._url = url
        self._cookie = cookie
        self._path = path
        self._origin = origin or url
        self._resources = ExitStack()
        self._socket: ClientConnection
        #: All that was received, the page first.
        self.received = ""

    def __enter__(self) -> Self:
        answer = requests.get(
            self._url + self._path, headers={"Cookie": self._cookie}, timeout=300
        )
        answer.raise_for_status()
        self.received = answer.text
        found = _CLIENT.search(answer.text)
        assert found, answer.text[:2000]
        self._client = found[1]
        query = {
            "EIO": "4",
            "transport": "websocket",
            "client_id": self._client,
            "tab_id": found[1],
            "document_id": found[1],
            "next_message_id": "0",
            "implicit_handshake": "true",
        }
        self._socket = self._resources.enter_context(
            connect(
                f"{self._url.replace('http', 'ws', 1)}/_nicegui_ws/socket.io/"
                f"?{urlencode(query)}",
                additional_headers={"Cookie": self._cookie},
                origin=Origin(self._origin),
                max_size=None,
                ping_interval=None,  # of a gateway that is busy
                open_timeout=300,
            )
        )
        self._socket.recv(300)  # the session's parameters
        self._socket.send("40")
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def wait_for(self, text: str, within_seconds: float = 300.0) -> None:
        """Wait until a text was received."""
        deadline = time.monotonic() + within_seconds
        while text not in self.received:
            assert time.monotonic() < deadline, self.received[-2000:]
            self.read(1.0)

    def press_all(self) -> None:
        """Press every button of the page as it was sent, whether it is disabled or
        hidden."""
        found = _ELEMENTS.search(self.received)
        assert found
        elements = json.loads(unescape(found[1]))
        for number, element in elements.items():
            for event in element.get("events", ()):
                if event["type"] == "click":
                    self._press(int(number), event["listener_id"])

    def _press(self, element: int, listener: str) -> None:
        event: dict[str, Any] = {
            "id": element,
            "client_id": self._client,
            "listener_id": listener,
            "args": [],
        }
        self._socket.send("42" + json.dumps(["event", event]))

    def read(self, within_seconds: float) -> int:
        """Take the next message, if one comes in time; its size."""
        with suppress(TimeoutError):
            message = str(self._socket.recv(within_seconds))
            if message == _PING:
                self._socket.send(_PONG)
            else:
                self.received += message
                return len(message)
        return 0


def session_cookie(url: str, token: str) -> str:
    """Log in; the session as ``name=value``."""
    answer = requests.get(
        f"{url}/login", params={"token": token}, timeout=300, allow_redirects=False
    )
    return answer.headers["Set-Cookie"].partition(";")[0]
