"""A Celery application that notes what it handles, in the order in which it does."""

from __future__ import annotations

import json
import os
from typing import Any

from meshtasks.amqp import headers
from meshtasks.celery import create_app
from meshtasks.config.settings import load_settings
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry

QUEUE = "metrics.system"


def handle(batch: Batch[dict[str, Any]], sinks: Sinks) -> list[Outcome]:
    """Note each record, unless it says what to ``do``: ``dead`` or ``retry``, which it
    does at its first attempt."""
    state = sinks.settings.env.state_dir
    state.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with (state / "effects.jsonl").open("a", encoding="utf-8") as file:
        for record, envelope in zip(batch.records, batch.envelopes, strict=True):
            what = record.get("do")
            if what == "dead":
                outcomes.append(Dead("told to die", "InvalidMessage"))
            elif what == "retry" and headers.ATTEMPT not in envelope.headers:
                outcomes.append(Retry("told to retry"))
            else:
                outcomes.append(DONE)
                file.write(json.dumps({"id": record["id"], "pid": os.getpid()}) + "\n")
                file.flush()
    return outcomes


if "MESH_BROKER_URL" in os.environ:  # the worker's own import
    app = create_app(
        load_settings(), {QUEUE: Handler(QUEUE, handle, dict[str, Any], (), False)}
    )
