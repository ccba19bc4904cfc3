"""A Celery application whose handlers do what their records tell them.

A record is ``{"id": …, "do": …, "times": …}``. ``do`` is one of ``done``,
``dead``, ``retry``, ``raise``, ``kill`` (the pool process kills itself) and
``hang``; with ``times`` it does so that often and is done after that. What is
done is appended to ``effects.jsonl`` in the state directory, what was tried to
``attempts.jsonl``.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from meshtasks.celery import create_app
from meshtasks.config.settings import load_settings
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from meshtasks.worker import flow_control

#: Handles a message at once; what waits in the others runs together.
AT_ONCE = "metrics.system"
QUEUES = ("alerts.notifications", "sensors.motion", "home.events.automations", AT_ONCE)


def handle(batch: Batch[dict[str, Any]], sinks: Sinks) -> list[Outcome]:
    """Do as each record says."""
    state = sinks.settings.env.state_dir
    return [_outcome(record, batch.queue, state) for record in batch.records]


def _outcome(record: dict[str, Any], queue: str, state: Path) -> Outcome:
    earlier = sum(each["id"] == record["id"] for each in read(state, "attempts"))
    _append(state, "attempts", {"id": record["id"], "queue": queue, "pid": os.getpid()})
    action = record.get("do", "done")
    if earlier >= record.get("times", 1_000_000):
        action = "done"
    match action:
        case "dead":
            return Dead("told to die", "InvalidMessage")
        case "retry":
            return Retry("told to retry")
        case "raise":
            message = "told to raise"
            raise RuntimeError(message)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "wait":
            threading.Event().wait(record["seconds"])
        case _:
            pass
    _append(state, "effects", {"id": record["id"], "queue": queue})
    return DONE


def read(state: Path, name: str) -> list[dict[str, Any]]:
    """What was written to one of the two files so far."""
    path = state / f"{name}.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _append(state: Path, name: str, entry: dict[str, Any]) -> None:
    state.mkdir(parents=True, exist_ok=True)
    line = json.dumps(entry) + "\n"
    with (state / f"{name}.jsonl").open("ab") as file:
        file.write(line.encode())


if "MESH_BROKER_URL" in os.environ:  # the worker's own import
    flow_control.SILENT_SECONDS = 20.0  # instead of minutes
    app = create_app(
        load_settings(),
        {
            queue: Handler(queue, handle, dict[str, Any], (), gathers=queue != AT_ONCE)
            for queue in QUEUES
        },
    )
