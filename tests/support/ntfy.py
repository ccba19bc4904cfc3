"""A real ntfy server, the one that phones subscribe to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from meshtasks.demo import loopback
from meshtasks.demo.packages import NTFY_DIRECTORY
from meshtasks.demo.process import Process

PROGRAM = NTFY_DIRECTORY / "root" / "usr" / "bin" / "ntfy"


class Ntfy:
    """An ntfy server on loopback.

    Args:
        directory: where it keeps its messages and its log.
    """

    def __init__(self, directory: Path) -> None:
        self.port = loopback.free_port()
        self.process = Process(
            "ntfy",
            [
                PROGRAM,
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

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{loopback.HOST}:{self.port}"

    def receiver_url(self, topic: str) -> str:
        """Apprise's URL of a topic."""
        return f"ntfy://{loopback.HOST}:{self.port}/{topic}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process.start()
        self.process.wait_ready(self._answers, within_seconds=30)

    def stop(self) -> None:
        """End it; it keeps its messages."""
        self.process.stop()

    def sent(self, topic: str) -> list[dict[str, Any]]:
        """Every message of a topic, oldest first."""
        lines = loopback.request("GET", self.port, f"/{topic}/json?poll=1")
        return [json.loads(line) for line in lines.splitlines()]

    def shown(self, topic: str) -> list[dict[str, Any]]:
        """What a phone shows: of each sequence the latest message."""
        latest = {message["sequence_id"]: message for message in self.sent(topic)}
        return list(latest.values())

    def _answers(self) -> bool:
        try:
            answer = loopback.request("GET", self.port, "/v1/health")
        except (OSError, loopback.HTTPFailed):
            return False
        return bool(json.loads(answer)["healthy"])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
