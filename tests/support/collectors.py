"""Producers as processes of their own, configured by the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.amqp import drain
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

Record = dict[str, Any]


def write_config(directory: Path, name: str, config: Any) -> dict[str, str]:
    """Write a producer's file; the ``MESH_*`` variables that lead to it."""
    (directory / "producers").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config)
    (directory / "producers" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {
        "MESH_CONFIG_DIR": str(directory),
        "MESH_STATE_DIR": str(directory / "state"),
    }


@contextmanager
def running(
    name: str, env: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A producer, which is ended with SIGTERM if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "meshtasks.producers", name, *arguments],
        env={**os.environ, **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=300)


def metrics_until(
    url: str, queue: str, enough: Callable[[list[Record]], object], what: str
) -> list[Record]:
    """Take metrics from a queue until there are enough.

    Raises:
        AssertionError: there were not after a minute.
    """
    taken: list[Record] = []

    def taken_enough() -> object:
        for delivery in drain(url, queue, at_most=1_000):
            assert delivery.routing_key.startswith(f"{queue}.")
            body = json.loads(delivery.body)
            taken.extend(body if isinstance(body, list) else [body])
        return enough(taken)

    wait_until(taken_enough, 60.0, f"{what} in {queue}")
    return taken
