"""The connection to Home Assistant: connect, subscribe, catch up, and reconnect."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from meshtasks.config.certificates import tls_fault
from meshtasks.errors import ConfigError, SchemaMismatch, Transient, UndecodableMessage
from meshtasks.producers.collecting import Unforeseen, contained
from meshtasks.producers.homeassistant.config import CONFIG, Loops
from meshtasks.producers.homeassistant.frames import (
    EventFrame,
    Frame,
    ResultFrame,
    decoded,
    frame_of,
)
from meshtasks.producers.homeassistant.publishing import EventPublisher
from meshtasks.records.models import explain
from meshtasks.timing import Backoff

#: Never logs at DEBUG: there the library logs what it sends, including the token.
_library_logger = logging.getLogger("meshtasks.producers.homeassistant.websocket")
_library_logger.setLevel(logging.WARNING)

_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
#: Longest wait of :meth:`Connection.receive`.
_RECEIVE_SECONDS = 0.2


class Disconnected(Transient):
    """There is no connection to Home Assistant."""


class Access(NamedTuple):
    """How to connect to Home Assistant's websocket.

    Attributes:
        url: of the websocket.
        token: a long-lived access token.
        backoff: wait between attempts to connect.
        ping_after_seconds: a ping is sent after so long without a message.
        answer_within_seconds: the connection is lost if the ping is not answered in
            this time.
    """

    url: str
    token: str
    backoff: Backoff = Backoff(first_seconds=0.5, longest_seconds=10.0)
    ping_after_seconds: float = 20.0
    answer_within_seconds: float = 10.0


class Connection:
    """An authenticated connection.

    Attributes:
        version: version of Home Assistant.
        heard_at: time of the last message received, epoch seconds.
    """

    def __init__(self, socket: ClientConnection, version: str, access: Access) -> None:
        self.version = version
        self.heard_at = time.time()
        self._socket = socket
        self._access = access
        self._heard = time.monotonic()
        self._pinged = False
        self._last_id = 0

    def send(self, kind: str, **fields: Any) -> int:
        """Send a command; return the id that its result will have.

        Raises:
            Disconnected: the connection is lost.
        """
        self._last_id += 1
        with _as_disconnected():
            self._socket.send(json.dumps({"id": self._last_id, "type": kind, **fields}))
        return self._last_id

    def receive(self) -> list[object]:
        """Return the JSON of the next frames; empty if none arrive within 0.2 s.

        Raises:
            Disconnected: the connection is lost, or a ping is not answered.
            UndecodableMessage: the message is not JSON.
        """
        try:
            message = self._socket.recv(timeout=_RECEIVE_SECONDS)
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
        ping_after = self._access.ping_after_seconds
        if silent_seconds < ping_after:
            return
        if not self._pinged:
            self.send("ping")
            self._pinged = True
        elif silent_seconds > ping_after + self._access.answer_within_seconds:
            message = f"no answer to a ping, {silent_seconds:.0f} s of silence"
            raise Disconnected(message)


@contextmanager
def opened(access: Access) -> Iterator[Connection]:
    """Open an authenticated connection, and close it at the end of the block.

    Raises:
        Disconnected: Home Assistant cannot be reached, or does not authenticate.
        ConfigError: Home Assistant rejects the token, or has banned this machine.
    """
    with ExitStack() as stack:
        with _as_disconnected():
            opening = connect(
                access.url,
                open_timeout=_OPEN_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                # The environment's proxy is for the internet, not the home network.
                proxy=None,
                # Home Assistant's own ping is used instead.
                ping_interval=None,
                # The size of the result of get_states grows with the entities.
                max_size=None,
                compression=None,
                logger=_library_logger,
            )
            socket = stack.enter_context(opening)
            version = _authenticate(socket, access.token)
        yield Connection(socket, version, access)


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
    """Send the token; return Home Assistant's version."""
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
    """Return the next frame of the authentication."""
    try:
        (frame,) = decoded(socket.recv(timeout=_OPEN_SECONDS))
    except (UndecodableMessage, ValueError) as error:
        message = f"not Home Assistant's websocket: {error}"
        raise Disconnected(message) from error
    if not isinstance(frame, dict) or frame.get("type") not in expected:
        message = f"not Home Assistant's websocket: no {' or '.join(expected)}"
        raise Disconnected(message)
    return frame


logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 30.0
#: Interval of ``each_moment`` without a connection.
_POLL_SECONDS = 0.2


class _User(TypedDict):
    id: str
    name: str | None


_users: TypeAdapter[list[_User]] = TypeAdapter(list[_User])


@dataclass(slots=True)
class Follower:
    """Receives Home Assistant's events until ``stop`` is set, and reconnects.

    Attributes:
        access: how to connect.
        loops: how to recognise what the mesh itself causes.
        publisher: receives the events and states.
        stop: ends the follower.
        each_moment: called about every fifth of a second, or more often.
    """

    access: Access
    loops: Loops
    publisher: EventPublisher
    stop: threading.Event
    each_moment: Callable[[], None]
    _logged_reason: str = field(default="", init=False)

    def __call__(self) -> None:
        """Run until ``stop`` is set.

        Raises:
            ConfigError: Home Assistant rejects the token, this machine or a command.
                There is no retry: it would not help, and could get the machine banned.
        """
        reason = "the producer ended"
        try:
            self._follow_through_restarts()
        except ConfigError as error:
            reason = str(error)
            raise
        finally:
            self.publisher.disconnected(reason)

    def _follow_through_restarts(self) -> None:
        access = self.access
        attempt = 0
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                with contained(), opened(access) as connection:
                    self._follow(connection)
            except (Disconnected, Unforeseen) as error:
                if self.stop.is_set():
                    return
                self.publisher.disconnected(str(error))
                self._log(str(error))
                # A connection that is lost at once counts as a failed attempt.
                if time.monotonic() - began > access.backoff.longest_seconds:
                    attempt = 0
                self._wait(access.backoff.delay_seconds(attempt))
                attempt += 1

    def _log(self, reason: str) -> None:
        """Log the reason, once until it changes or a connection succeeds."""
        if reason != self._logged_reason:
            self._logged_reason = reason
            logger.warning(
                "no connection to Home Assistant at %s: %s; trying again",
                self.access.url,
                reason,
            )

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            self.stop.wait(min(left, _POLL_SECONDS))
            self.each_moment()

    def _follow(self, connection: Connection) -> None:
        """Subscribe, catch up, and publish what arrives, until the connection ends."""
        publisher = self.publisher
        publisher.counts.connections += 1
        self._logged_reason = ""
        # Allows frames to be arrays; versions that cannot do it return an error.
        connection.send("supported_features", features={"coalesce_messages": 1})
        if self.loops.users:
            publisher.own.user_ids = self._user_ids(connection)
        config = self._command(connection, "get_config")
        complete = isinstance(config, dict) and config.get("state") == "RUNNING"
        # Subscribe first, so that no event between states and subscription is missed.
        awaited = {
            connection.send("subscribe_events", event_type=kind): kind
            for kind in ("state_changed", "automation_triggered")
        }
        states_id = connection.send("get_states")
        awaited[states_id] = "get_states"
        while not self.stop.is_set():
            for frame in self._frames(connection):
                if isinstance(frame, EventFrame):
                    publisher.publish(frame.event)
                elif isinstance(frame, ResultFrame) and frame.id in awaited:
                    answer = _result(frame, awaited.pop(frame.id))
                    if frame.id == states_id:
                        publisher.catch_up(
                            answer, connection.version, complete=complete
                        )
            if states_id not in awaited:
                publisher.known.heard_at = connection.heard_at
            self.each_moment()

    def _frames(self, connection: Connection) -> Iterator[Frame]:
        """Yield the next frames; count invalid ones."""
        try:
            contents = connection.receive()
        except UndecodableMessage as error:
            self.publisher.reject(error)
            return
        for content in contents:
            try:
                frame = frame_of(content)
            except SchemaMismatch as error:
                self.publisher.reject(error)
            else:
                yield frame

    def _command(self, connection: Connection, command: str) -> Any:
        """Send a command before the subscriptions, and return its result."""
        command_id = connection.send(command)
        until = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < until and not self.stop.is_set():
            for frame in self._frames(connection):
                if isinstance(frame, ResultFrame) and frame.id == command_id:
                    return _result(frame, command)
            self.each_moment()
        message = f"no answer to {command}"
        raise Disconnected(message)

    def _user_ids(self, connection: Connection) -> set[str]:
        """Return the ids of the users that the mesh acts as."""
        answer = self._command(connection, "config/auth/list")
        try:
            users = _users.validate_python(answer)
        except ValidationError as error:
            message = f"the answer to config/auth/list: {explain(error)}"
            raise Disconnected(message) from error
        found = set()
        for wanted in self.loops.users:
            ids = {user["id"] for user in users if wanted in (user["id"], user["name"])}
            if not ids:
                expected = (
                    f"expected users of Home Assistant; {wanted!r} is none of "
                    + ", ".join(repr(user["name"]) for user in users)
                )
                raise ConfigError(CONFIG.name, "loops.users", expected)
            found |= ids
        return found


def _result(frame: ResultFrame, command: str) -> Any:
    """Return the result of a command, or raise the error that it failed with."""
    if frame.success:
        return frame.result
    code, text = (frame.error.code, frame.error.message) if frame.error else ("", "")
    if code == "unauthorized":
        expected = (
            "expected the token of an administrator: Home Assistant lets nobody else "
            f"have {command}"
        )
        raise ConfigError("environment", "MESH_HASS_TOKEN", expected)
    message = f"Home Assistant refuses {command}: {text or code}"
    raise Disconnected(message)
