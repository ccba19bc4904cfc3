"""What a real server answered, to be held against a server that plays it.

A recording is a file of requests, one JSON object a line, with the answers that the
real server gave. ``python -m tests.support.recording`` asks the servers that this
machine has again and writes their answers down. A test sends the same requests to the
real server, where it runs, and to the one that plays it, and compares.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from meshtasks.demo import loopback

_DIRECTORY = Path(__file__).parents[1] / "data" / "recorded"
#: Nobody asks so long; a server that was just started may be busy with itself.
_TIMEOUT_SECONDS = 60.0

#: JSON with what differs from one run to the next made equal.
Stable = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        body: of the request; bytes that are no text are in base64, after ``base64:``.
        answer: the answer's body, in the same way.
        answer_headers: those that clients look at.
    """

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: str = ""

    def ask(self, port: int) -> Exchange:
        """The same request with the answer that a server gives now."""
        connection = HTTPConnection(loopback.HOST, port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(
                self.method, self.path, encoded(self.body), dict(self.headers)
            )
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kept = ("Content-Type", "Inference-Header-Content-Length")
        headers = {name: text for name in kept if (text := answer.getheader(name))}
        return replace(
            self,
            status=answer.status,
            answer_headers=headers,
            answer=decoded(content),
        )

    def stable(self, stable: Stable) -> Exchange:
        """The same with what varies in the answer made equal, as far as it is JSON."""
        try:
            lines = [stable(json.loads(line)) for line in self.answer.splitlines()]
        except ValueError:
            return self
        return replace(self, answer="\n".join(json.dumps(line) for line in lines))


def encoded(text: str) -> bytes:
    """The bytes of a body."""
    if text.startswith("base64:"):
        return base64.b64decode(text.removeprefix("base64:"))
    return text.encode()


def decoded(content: bytes) -> str:
    """The text of a body."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return f"base64:{base64.b64encode(content).decode()}"
    return text


def recorded(service: str) -> list[Exchange]:
    """The recording of a service."""
    text = (_DIRECTORY / f"{service}.jsonl").read_text(encoding="utf-8")
    return [Exchange(**json.loads(line)) for line in text.splitlines()]


def record(service: str, port: int, exchanges: list[Exchange]) -> None:
    """Ask a real server, and write its answers down."""
    lines = (
        json.dumps(asdict(each.ask(port)), ensure_ascii=False) for each in exchanges
    )
    text = "".join(f"{line}\n" for line in lines)
    (_DIRECTORY / f"{service}.jsonl").write_text(text, encoding="utf-8")


def differences(service: str, port: int, stable: Stable) -> Iterator[str]:
    """What a server answers otherwise than the recorded one did, in words."""
    for each in recorded(service):
        then = each.stable(stable)
        # What a server counts, it may count only after it has answered.
        deadline = time.monotonic() + (_TIMEOUT_SECONDS if each.method == "GET" else 0)
        while (now := each.ask(port).stable(stable)) != then:
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if then != now:
            yield f"{each.method} {each.path} {each.body}\n  {then}\n  {now}"
