"""Settings, handlers and commands of the mesh, attached to the Celery application."""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals

from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Handler
from meshtasks.worker.results import WAITING_FOR, BatchResult
from meshtasks.worker.runner import BatchRunner


@dataclass(frozen=True, slots=True)
class Mesh:
    """The mesh of one application.

    Attributes:
        settings: settings of the environment and of config/.
        handlers: handlers by queue.
        commands: names of the commands.
    """

    settings: Settings
    handlers: Mapping[str, Handler]
    commands: Collection[str]


def attach(
    app: Celery,
    settings: Settings,
    handlers: Mapping[str, Handler],
    commands: Collection[str],
) -> None:
    """Register one Celery task per handler, with the name of its queue, and attach the
    mesh to the application."""
    for queue, handler in handlers.items():
        _register(app, queue, BatchRunner(handler, settings), settings)
    signals.worker_before_create_process.connect(_share_memory)
    logging.getLogger("celery.app.trace").addFilter(_is_news)
    app.mesh = Mesh(settings, handlers, commands)


def mesh_of(app: Any) -> Mesh:
    """Return the mesh that :func:`attach` attached to the application."""
    mesh: Mesh = app.mesh
    return mesh


def _register(app: Celery, queue: str, runner: BatchRunner, settings: Settings) -> None:
    def run(wires: list[Any], away: Collection[str] = ()) -> BatchResult:
        return runner(wires, away)

    retry = settings.read(QUEUES).for_queue(queue).retry
    run.__doc__ = f"One batch of messages of queue {queue}."
    app.task(
        run,
        name=queue,
        shared=False,  # for this application only; another has its own handlers
        acks_late=True,  # the messages are acknowledged by their resolution
        ignore_result=True,
        max_retries=retry.max_retries,
        retry_backoff=retry.retry_backoff,
        retry_backoff_max=retry.retry_backoff_max,
        retry_jitter=retry.retry_jitter,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Drop records about a batch that found a sink unavailable: the consuming process
    logs this once, and not for every attempt."""
    said = record.args.get("return_value") if isinstance(record.args, dict) else None
    return not str(said).startswith(WAITING_FOR)


#: A batch creates tens of thousands of objects, hardly any of them in cycles. With
#: Python's threshold of 700, searching for cycles took a quarter of the pool's time.
_COLLECTION_THRESHOLD = 50_000


def _share_memory(**_: Any) -> None:
    """Prepare memory before a pool process is forked. What every process needs is
    loaded here once, and excluded from garbage collection: the search for cycles writes
    to every object, and its memory would no longer be shared. The threshold of this
    process is raised as well. With nearly all objects excluded, Python would otherwise
    collect at every batch."""
    import meshtasks.state.history  # noqa: F401, PLC0415 - loads SQLAlchemy

    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTION_THRESHOLD)
