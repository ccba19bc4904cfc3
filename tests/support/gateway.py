"""A real ``meshtasks gateway``, and callers with tokens of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from tests.support.browser import Browser

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("meshtasks")

#: The largest body that the session's gateway takes.
MAX_BODY_BYTES = 100_000

#: Callers by name; their tokens are those names, repeated.
SCOPES = {
    "n8n": "publish+trigger",
    "sensor": "publish",
    "asker": "trigger",
    "operator": "operate",
    "visitor": "view",
    "greedy": "publish",
}


def token_of(caller: str) -> str:
    """The token of a caller."""
    return (caller + "-" * 30)[:30]


TOKENS = "\n".join(
    f"{caller}:{scopes}:{token_of(caller)}" for caller, scopes in SCOPES.items()
)


class Gateway:
    """The command as a process.

    Args:
        directory: for its log.
        env: ``MESH_*`` variables; the tokens of :data:`SCOPES` are added.
    """

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.port = loopback.free_port()
        self.process = Process(
            "gateway",
            [COMMAND, "gateway", "--port", str(self.port)],
            log_path=directory / "gateway.log",
            env={
                **os.environ,
                **env,
                "PYTHONPATH": str(ROOT),
                "MESH_API_TOKENS": TOKENS,
            },
            cwd=directory,
        )
        self._session = requests.Session()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{loopback.HOST}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is healthy."""
        self.process.start()
        self.process.wait_ready(self.is_healthy, within_seconds=60)

    def stop(self) -> int | None:
        """Stop it orderly; gives its exit code."""
        self._session.close()
        return self.process.stop(within_seconds=30)

    def log_in(self, browser: Browser, caller: str) -> None:
        """Have the browser see the console as one of :data:`SCOPES`."""
        answer = requests.get(
            f"{self.url}/login",
            params={"token": token_of(caller)},
            timeout=300,
            allow_redirects=False,
        )
        for name, value in answer.cookies.items():
            browser.call("Network.setCookie", name=name, value=value, url=self.url)

    def is_healthy(self) -> bool:
        """Whether it says so."""
        try:
            return requests.get(f"{self.url}/healthz", timeout=300).ok
        except requests.ConnectionError:
            return False

    def request(
        self,
        method: str,
        path: str,
        *,
        caller: str | None = "n8n",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        """Make a request as one of :data:`SCOPES`, or as nobody."""
        sent = dict(headers or {})
        if caller is not None:
            sent["Authorization"] = f"Bearer {token_of(caller)}"
        return self._session.request(
            method, self.url + path, headers=sent, timeout=300, **options
        )

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        """POST a body: bytes as they are, all else as JSON."""
        how = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.request("POST", path, **how, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET."""
        return self.request("GET", path, **options)
