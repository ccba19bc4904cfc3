"""celery-batches: one task run per 2,000 messages.

``celery -A benchmarks.peers.celery_batched worker -c 1``
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery_batches import Batches  # type: ignore[import-not-found]  # its own venv
from kombu import Queue

from benchmarks.peers import store
from benchmarks.peers.reading import Reading, to_line

FLUSH_EVERY = 2_000

app = Celery("celery_batched", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    task_queues=[Queue("readings", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="readings",
    task_acks_late=True,
    task_ignore_result=True,
    # It must exceed flush_every, or a batch never fills; twice lets the next one
    # gather while one runs.
    worker_prefetch_multiplier=2 * FLUSH_EVERY,
)


@app.task(  # type: ignore[untyped-decorator]  # celery ships no types
    name="store", base=Batches, flush_every=FLUSH_EVERY, flush_interval=1
)
def store_readings(requests: list[Any]) -> None:
    """Store a batch of readings."""
    readings = (Reading.model_validate(request.args[0]) for request in requests)
    store.write("\n".join(map(to_line, readings)))
