"""An HTTP service under the test's control: records requests, answers as told."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from typing_extensions import override

from tests.support.httpserver import Handler, HTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer a request with, and how long to keep it waiting."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class Receiver(HTTPServer):
    """Answers every request the same way, but scripted ones first.

    Attributes:
        always: the answer when no scripted one is left.
        by_path: answers to all requests for a path, whatever is scripted.
        requests: every request received, oldest first.
        accepted: those of them that were answered with a 2xx.
    """

    def __init__(self, always: Answer | None = None) -> None:
        super().__init__(_RecordingHandler)
        self.always = always or Answer()
        self.by_path: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self._script: deque[Answer] = deque()
        self._stopping = threading.Event()

    def script(self, *answers: Answer) -> None:
        """Answer the next requests with these, one each, in this order."""
        self._script.extend(answers)

    @override
    def start(self) -> None:
        self._stopping.clear()
        super().start()

    @override
    def stop(self) -> None:
        self._stopping.set()
        super().stop()

    def receive(self, request: Request) -> Answer:
        """Record a request; the answer to it, once its delay is over."""
        self.requests.append(request)
        try:
            answer = self.by_path.get(request.path) or self._script.popleft()
        except IndexError:
            answer = self.always
        self._stopping.wait(answer.delay_seconds)
        if answer.status // 100 == 2:
            self.accepted.append(request)
        return answer


class _RecordingHandler(Handler):
    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.read_body())
        answer = self.owner.receive(request)
        self.answer(answer.status, answer.body, answer.headers)

    do_DELETE = do_GET = do_HEAD = do_PATCH = do_POST = do_PUT = _serve  # noqa: N815 - as http.server has it
