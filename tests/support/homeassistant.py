"""Home Assistant's side of its websocket, played from recorded frames, which a test
may cut, silence and refuse."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from meshtasks.demo import loopback

RECORDINGS = Path(__file__).parents[1] / "data" / "homeassistant"
TOKEN = "long-lived"

_MOMENT = re.compile(r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00)"')


class Recording:
    """One boot of a real Home Assistant.

    All its moments are moved by the same span, to an hour from now: what happens in
    it is later than whatever a test does.

    Attributes:
        greeting: and ``welcome``, the first messages as they came.
        users: the answer to ``config/auth/list``, ``config`` that to
            ``get_config``, ``states`` that to ``get_states``.
        messages: those that carry events, as they came.
    """

    def __init__(self, boot: int) -> None:
        text = (RECORDINGS / f"boot-{boot}.jsonl").read_text(encoding="utf-8")
        moments = sorted(map(datetime.fromisoformat, _MOMENT.findall(text)))
        shift = datetime.now(UTC) + timedelta(hours=1) - moments[len(moments) // 2]
        lines = _MOMENT.sub(
            lambda match: json.dumps(
                (datetime.fromisoformat(match[1]) + shift).isoformat()
            ),
            text,
        ).splitlines()
        self.greeting, self.welcome = lines[:2]
        results = [json.loads(line)["result"] for line in lines[2:8]]
        _, self.users, self.config, _, _, self.states = results
        self.messages = lines[8:]


def frames_of(message: str) -> list[dict[str, Any]]:
    """The frames of a message: one, or an array of them."""
    content = json.loads(message)
    return content if isinstance(content, list) else [content]


class ReplayedHomeAssistant:
    """A websocket server with one house behind it.

    Attributes:
        states: of the house, by entity id.
        connections: that were let in; ``attempts``, those that were not, too.
        pings: that were answered.
        mute: whether it says nothing any more, not even to pings.
        refusals: command → the error code it is refused with.
        config: the answer to ``get_config``.
    """

    def __init__(self) -> None:
        self.port = loopback.free_port()
        self.states: dict[str, dict[str, Any]] = {}
        self.connections = self.attempts = self.pings = 0
        self.mute = False
        self.refusals: dict[str, str] = {}
        self.config: dict[str, Any] = {}
        self._door_is_open = True
        self._peer: ServerConnection | None = None
        self._listeners: set[str] = set()
        #: Guards the house and who listens to it.
        self._lock = threading.RLock()
        self.boot(1)

    @property
    def url(self) -> str:
        """Where its websocket is."""
        return f"ws://{loopback.HOST}:{self.port}/api/websocket"

    @property
    def heard(self) -> bool:
        """Whether somebody has subscribed and knows all states."""
        return "get_states" in self._listeners

    def boot(self, number: int) -> None:
        """Begin a recording; whoever is connected is cut off."""
        with self._lock:
            self.recording = Recording(number)
            self.config = dict(self.recording.config)
            self.states = {each["entity_id"]: each for each in self.recording.states}
            self._ahead = iter(self.recording.messages)
            self.cut()

    def tell(self, count: int | None = None) -> list[dict[str, Any]]:
        """Let the next recorded messages happen, all by default, whether somebody
        listens or not; their events."""
        events = []
        for number, message in enumerate(self._ahead, start=1):
            with self._lock:
                for frame in frames_of(message):
                    events.append(frame["event"])
                    self._change(frame["event"])
                self.say(message)
            if number == count:
                break
        return events

    def say(self, message: str | bytes) -> None:
        """Send a message as it is, if somebody listens."""
        with self._lock:
            if self._peer is not None and self.heard and not self.mute:
                with suppress(ConnectionClosed):
                    self._peer.send(message)

    def cut(self) -> None:
        """Cut the connection, as a bad network would."""
        with self._lock:
            self._listeners.clear()
            if self._peer is not None:
                with suppress(OSError):
                    self._peer.socket.shutdown(socket.SHUT_RDWR)
                self._peer = None

    def close_door(self) -> None:
        """Cut, and answer as a reverse proxy whose Home Assistant is away."""
        self._door_is_open = False
        self.cut()

    def open_door(self) -> None:
        """Take connections again."""
        self._door_is_open = True

    def __enter__(self) -> Self:
        self._server = serve(
            self._serve, loopback.HOST, self.port, process_request=self._at_the_door
        )
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._server.shutdown()
        self._thread.join()

    def _at_the_door(
        self, connection: ServerConnection, _request: Request
    ) -> Response | None:
        self.attempts += 1
        if self._door_is_open:
            return None
        return connection.respond(HTTPStatus.BAD_GATEWAY, "starting\n")

    def _serve(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            connection.send(self.recording.greeting)
            if json.loads(connection.recv())["access_token"] != TOKEN:
                message = "Invalid access token or password"
                connection.send(
                    json.dumps({"type": "auth_invalid", "message": message})
                )
                return
            connection.send(self.recording.welcome)
            with self._lock:
                self._peer = connection
                self._listeners.clear()
                self.connections += 1
            for text in connection:
                if self.mute:
                    continue
                with self._lock:
                    if self._peer is not connection:
                        return
                    connection.send(json.dumps(self._answer(json.loads(text))))
        with self._lock:
            if self._peer is connection:
                self._peer = None
                self._listeners.clear()

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        kind = command["type"]
        answer: dict[str, Any] = {"id": command["id"], "type": "result"}
        if code := self.refusals.get(kind):
            return {
                **answer,
                "success": False,
                "error": {"code": code, "message": code},
            }
        result: Any = None
        match kind:
            case "ping":
                self.pings += 1
                return {"id": command["id"], "type": "pong"}
            case "config/auth/list":
                result = self.recording.users
            case "get_config":
                result = self.config
            case "get_states":
                result = list(self.states.values())
            case _:  # a subscription, say: it succeeds and has no result
                pass
        self._listeners.add(kind)
        return {**answer, "success": True, "result": result}

    def _change(self, event: dict[str, Any]) -> None:
        if event["event_type"] != "state_changed":
            return
        data = event["data"]
        if data["new_state"] is None:
            self.states.pop(data["entity_id"], None)
        else:
            self.states[data["entity_id"]] = data["new_state"]
