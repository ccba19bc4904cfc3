"""One connection to Home Assistant, from the token to the last frame."""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from meshtasks.config.certificates import tls_fault
from meshtasks.errors import ConfigError, Transient, UndecodableMessage
from meshtasks.producers.homeassistant.frames import decoded

#: Never at DEBUG, where the library logs what is sent, the token among it.
_library_logger = logging.getLogger("meshtasks.producers.homeassistant.websocket")
_library_logger.setLevel(logging.WARNING)

_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
#: Longest that :meth:`Connection.receive` waits.
_POLL_SECONDS = 0.2


class Disconnected(Transient):
    """There is no connection to Home Assistant."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a silent connection counts as lost.

    Attributes:
        ping_after_seconds: of silence.
        answer_within_seconds: of that ping.
    """

    ping_after_seconds: float = 20.0
    answer_within_seconds: float = 10.0


class Connection:
    """An authenticated connection.

    Attributes:
        version: of Home Assistant.
        heard_at: when something last came from it, epoch seconds.
    """

    def __init__(
        self, socket: ClientConnection, version: str, liveness: Liveness
    ) -> None:
        self.version = version
        self.heard_at = time.time()
        self._socket = socket
        self._liveness = liveness
        self._heard = time.monotonic()
        self._pinged = False
        self._last_id = 0

    def send(self, kind: str, **fields: Any) -> int:
        """Send a command; the id that its answer will have.

        Raises:
            Disconnected: the connection is gone.
        """
        self._last_id += 1
        with _as_disconnected():
            self._socket.send(json.dumps({"id": self._last_id, "type": kind, **fields}))
        return self._last_id

    def receive(self) -> list[object]:
        """The JSON of the frames that come next; none if none do for a moment.

        Raises:
            Disconnected: the connection is gone, or silent for too long.
            UndecodableMessage: what came was no JSON.
        """
        try:
            message = self._socket.recv(timeout=_POLL_SECONDS)
        except TimeoutError:
            self._check_liveness()
            return []
        except ConnectionClosed as error:
            raise Disconnected(str(error)) from error
        self._heard, self.heard_at = time.monotonic(), time.time()
        self._pinged = False
        return decoded(message)

    def _check_liveness(self) -> None:
        silent_seconds = time.monotonic() - self._heard
        ping_after = self._liveness.ping_after_seconds
        if silent_seconds < ping_after:
            return
        if not self._pinged:
            self.send("ping")
            self._pinged = True
        elif silent_seconds > ping_after + self._liveness.answer_within_seconds:
            message = f"no answer to a ping, {silent_seconds:.0f} s of silence"
            raise Disconnected(message)


@contextmanager
def opened(url: str, token: str, liveness: Liveness) -> Iterator[Connection]:
    """An authenticated connection, closed at the end.

    Args:
        url: of its websocket.
        token: a long-lived access token.

    Raises:
        Disconnected: it could not be reached.
        ConfigError: it refuses the token, or this machine.
    """
    with ExitStack() as stack:
        with _as_disconnected():
            opening = connect(
                url,
                open_timeout=_OPEN_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                # Home Assistant's own ping is used instead.
                ping_interval=None,
                # The answer to get_states is as large as the house.
                max_size=None,
                compression=None,
                logger=_library_logger,
            )
            socket = stack.enter_context(opening)
            version = _authenticate(socket, token)
        yield Connection(socket, version, liveness)


@contextmanager
def _as_disconnected() -> Iterator[None]:
    try:
        yield
    except InvalidStatus as error:
        status = error.response.status_code
        if status == HTTPStatus.FORBIDDEN:
            expected = (
                "expected a Home Assistant that lets this machine in; it answers 403. "
                "Take the address out of its ip_bans.yaml and restart it"
            )
            raise ConfigError("environment", "MESH_HASS_URL", expected) from error
        message = f"HTTP {status} instead of a websocket; is MESH_HASS_URL right?"
        raise Disconnected(message) from error
    except ssl.SSLError as error:
        raise Disconnected(tls_fault(error)) from error
    except (WebSocketException, OSError) as error:
        raise Disconnected(str(error) or type(error).__name__) from error


def _authenticate(socket: ClientConnection, token: str) -> str:
    """Send the token; Home Assistant's version."""
    greeting = _handshake(socket, "auth_required")
    socket.send(json.dumps({"type": "auth", "access_token": token}))
    answer = _handshake(socket, "auth_ok", "auth_invalid")
    if answer["type"] == "auth_invalid":
        expected = (
            "expected a token that Home Assistant accepts; its answer: "
            f"{answer.get('message') or 'invalid'}. Make a long-lived access token "
            "there: your profile, Security"
        )
        raise ConfigError("environment", "MESH_HASS_TOKEN", expected)
    return str(greeting.get("ha_version", "of unknown version"))


def _handshake(socket: ClientConnection, *expected: str) -> dict[str, Any]:
    """The next frame before authentication is complete."""
    try:
        (frame,) = decoded(socket.recv(timeout=_OPEN_SECONDS))
    except (UndecodableMessage, ValueError) as error:
        message = f"not Home Assistant's websocket: {error}"
        raise Disconnected(message) from error
    if not isinstance(frame, dict) or frame.get("type") not in expected:
        message = f"not Home Assistant's websocket: no {' or '.join(expected)}"
        raise Disconnected(message)
    return frame
