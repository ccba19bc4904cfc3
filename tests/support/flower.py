"""A real Flower, and its HTTP API as scripts use it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from meshtasks.demo import loopback
from meshtasks.demo.process import Process

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "mesh", "a password for tests"


class Flower:
    """``celery -A meshtasks flower``, started as the Procfile starts it.

    Args:
        directory: for its log.
        env: ``MESH_*`` variables.
    """

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.port = loopback.free_port()
        self.process = Process(
            "flower",
            [
                *(sys.executable, "-m", "celery", "-A", "meshtasks", "flower"),
                *(f"--address={loopback.HOST}", f"--port={self.port}"),
            ],
            log_path=directory / "flower.log",
            env={
                **os.environ,
                **env,
                "PYTHONPATH": str(ROOT),
                "FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}",
            },
            cwd=directory,
        )

    def start(self) -> None:
        """Start it and wait until it hears the worker that runs."""
        self.process.start()
        self.process.wait_ready(self._hears_a_worker, within_seconds=60)

    def request(
        self, method: str, path: str, auth: Any = (USER, PASSWORD), **options: Any
    ) -> requests.Response:
        """Call its API."""
        url = f"http://{loopback.HOST}:{self.port}/api/{path}"
        return requests.request(method, url, auth=auth, timeout=300, **options)

    def call(self, how: str, task: str, **body: Any) -> str:
        """Start a task with ``async-apply`` or ``send-task``; gives its id."""
        answer = self.request("POST", f"task/{how}/{task}", json=body)
        assert answer.status_code == HTTPStatus.OK, answer.text
        return str(answer.json()["task-id"])

    def info(self, task_id: str) -> dict[str, Any]:
        """What it knows of a task; nothing as long as it has heard of none."""
        answer = self.request("GET", f"task/info/{task_id}")
        found: dict[str, Any] = answer.json() if answer.ok else {}
        return found

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """The tasks of a name."""
        answer = self.request("GET", "tasks", params={"taskname": name})
        return list(answer.json().values())

    def _hears_a_worker(self) -> bool:
        url = f"http://{loopback.HOST}:{self.port}/metrics"
        try:
            return "flower_worker_online{" in requests.get(url, timeout=300).text
        except requests.ConnectionError:
            return False
