"""Stock Celery: one task per message.

``celery -A benchmarks.peers.celery_single worker -c 1``
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from kombu import Queue

from benchmarks.peers import store
from benchmarks.peers.reading import Reading, to_line

app = Celery("celery_single", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    task_queues=[Queue("readings", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="readings",
    task_acks_late=True,
    task_ignore_result=True,
    # Celery's advice for many short tasks; its default of 4 is for long ones.
    worker_prefetch_multiplier=128,
)


@app.task(name="store")  # type: ignore[untyped-decorator]  # celery ships no types
def store_reading(reading: dict[str, Any]) -> None:
    """Store one reading."""
    store.write(to_line(Reading.model_validate(reading)))
