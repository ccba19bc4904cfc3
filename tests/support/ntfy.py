"""ntfy, the server that phones subscribe to: the real one, and one that plays it."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from tests.support.httpserver import Handler, HTTPServer
from tests.support.recording import Exchange, recorded
from tests.support.unpacked import NTFY
from tests.support.waiting import PATIENCE_SECONDS


class Ntfy:
    """An ntfy server on loopback.

    Attributes:
        port: TCP port.
        replaces: whether a message takes the place of an earlier one of the same
            sequence.
    """

    port: int
    replaces = True

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{loopback.HOST}:{self.port}"

    def receiver_url(self, topic: str) -> str:
        """Apprise's URL of a topic."""
        return f"ntfy://{loopback.HOST}:{self.port}/{topic}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it; it keeps its messages."""
        raise NotImplementedError

    def sent(self, topic: str) -> list[dict[str, Any]]:
        """Every message of a topic, oldest first."""
        lines = loopback.request("GET", self.port, f"/{topic}/json?poll=1")
        return [json.loads(line) for line in lines.splitlines()]

    def shown(self, topic: str) -> list[dict[str, Any]]:
        """What a phone shows: of each sequence the latest message."""
        latest = {
            message.get("sequence_id", message["id"]): message
            for message in self.sent(topic)
        }
        return list(latest.values())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RealNtfy(Ntfy):
    """The real one.

    Args:
        directory: where it keeps its messages and its log.
    """

    def __init__(self, directory: Path) -> None:
        self.port = loopback.free_port()
        self.process = Process(
            "ntfy",
            [
                NTFY.program,
                *("serve", "--config", "/dev/null"),
                *("--listen-http", f"{loopback.HOST}:{self.port}"),
                *("--base-url", self.url),
                *("--cache-file", directory / "messages.db"),
                # A test that finds itself rate-limited would blame the mesh.
                *("--visitor-request-limit-exempt-hosts", loopback.HOST),
                *("--visitor-message-daily-limit", "100000"),
            ],
            log_path=directory / "ntfy.log",
            cwd=directory,
        )

    @override
    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(
            lambda: loopback.answers(self.port, "/v1/health"), PATIENCE_SECONDS
        )
        body = b'{"topic": "start", "sequence_id": "1"}'
        answer = loopback.request("POST", self.port, "/", body=body)
        self.replaces = "sequence_id" in json.loads(answer)

    @override
    def stop(self) -> None:
        self.process.kill()


class PlayedNtfy(Ntfy):
    """Plays ntfy 2.27 from a recording: publishing as JSON, polling, health."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._server = _Server(self)
        self.port = self._server.port

    @override
    def start(self) -> None:
        self._server.start()

    @override
    def stop(self) -> None:
        self._server.stop()


class _Server(HTTPServer):
    def __init__(self, ntfy: PlayedNtfy) -> None:
        super().__init__(_Handler)
        self.messages = ntfy.messages
        answers = {(each.path, each.body): each for each in recorded("ntfy")}
        self.health = answers["/v1/health", ""]
        self.no_json = answers["/", "not json"]
        self.bad_topic = answers["/", '{"topic":"v1","message":"x"}']
        self.stream = answers["/recorded/json?poll=1", ""]


class _Handler(Handler):
    def _get(self) -> None:
        if self.path == "/v1/health":
            self._say(self.owner.health)
            return
        topic = self.path.removesuffix("/json?poll=1").strip("/")
        lines = (
            json.dumps(each, ensure_ascii=False)
            for each in self.owner.messages
            if each["topic"] == topic
        )
        text = "".join(f"{line}\n" for line in lines)
        self.answer(200, text.encode(), self.owner.stream.answer_headers)

    def _post(self) -> None:
        try:
            given = json.loads(self.read_body())
        except ValueError:
            self._say(self.owner.no_json)
            return
        if given["topic"] in {"v1", "docs", "static"}:
            self._say(self.owner.bad_topic)
            return
        now = int(time.time())
        message = {
            "id": secrets.token_urlsafe(9),
            **({"sequence_id": given["sequence_id"]} if "sequence_id" in given else {}),
            "time": now,
            "expires": now + 12 * 3600,
            "event": "message",
            "topic": given["topic"],
            **({"title": given["title"]} if given.get("title") else {}),
            "message": given.get("message") or "triggered",
            **{name: given[name] for name in ("priority", "tags") if given.get(name)},
        }
        self.owner.messages.append(message)
        body = json.dumps(message, ensure_ascii=False)
        self.answer(200, f"{body}\n".encode(), self.owner.health.answer_headers)

    do_GET, do_POST = _get, _post  # noqa: N815 - names that http.server looks up

    def _say(self, exchange: Exchange) -> None:
        self.answer(exchange.status, exchange.answer.encode(), exchange.answer_headers)


def stable(message: Any) -> Any:
    """A message without what is its own."""
    own = {"id": str, "time": int, "expires": int}
    return {
        name: f"some {own[name].__name__}"
        if name in own and isinstance(value, own[name])
        else value
        for name, value in message.items()
    }


def without_sequence(message: Any) -> Any:
    """The same of a server that knows no sequences."""
    return {
        name: each for name, each in stable(message).items() if name != "sequence_id"
    }


#: What is asked to make the recording.
REQUESTS = [
    Exchange("GET", "/v1/health"),
    *(
        Exchange("POST", "/", body=body)
        for body in (
            '{"topic":"recorded","message":"a"}',
            (
                '{"topic":"recorded","title":"Küche","message":"85 %\\nsince 13:20 💧"'
                ',"priority":4,"tags":["warning","attic"],"sequence_id":"mesh-1"}'
            ),
            '{"topic":"recorded","title":"","message":"","priority":3,"tags":[]}',
            '{"topic":"recorded","message":"b","sequence_id":"mesh-1","tags":null}',
            '{"topic":"v1","message":"x"}',
            "not json",
        )
    ),
    Exchange("GET", "/recorded/json?poll=1"),
    Exchange("GET", "/nobody/json?poll=1"),
]
