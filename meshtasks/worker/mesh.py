"""What the worker needs to know of the mesh, attached to the Celery application."""

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
        settings: everything from the environment and config/.
        handlers: by queue.
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
    """Register one Celery task per handler, named as its queue, and remember the
    mesh on the application."""
    for queue, handler in handlers.items():
        _register(app, queue, BatchRunner(handler, settings), settings)
    signals.worker_before_create_process.connect(_share_memory)
    logging.getLogger("celery.app.trace").addFilter(_is_news)
    app.mesh = Mesh(settings, handlers, commands)


def mesh_of(app: Any) -> Mesh:
    """The mesh that :func:`attach` put on the application."""
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
        shared=False,  # of this application alone: another has its own handlers
        acks_late=True,  # Celery must not acknowledge: the resolution does
        ignore_result=True,
        max_retries=retry.max_retries,
        retry_backoff=retry.retry_backoff,
        retry_backoff_max=retry.retry_backoff_max,
        retry_jitter=retry.retry_jitter,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Not that a batch found a sink unavailable: the consuming process logs that
    once, and not for every try."""
    said = record.args.get("return_value") if isinstance(record.args, dict) else None
    return not str(said).startswith(WAITING_FOR)


#: A batch makes tens of thousands of objects, nearly none of them in cycles; at
#: Python's own threshold of 700, looking for cycles took a quarter of the pool's time.
_COLLECTION_THRESHOLD = 50_000


def _share_memory(**_: Any) -> None:
    """Before a pool process is made: load what each of them needs, once for all, and
    never look at it again, since to look for cycles writes to every object's memory,
    which then is no longer shared. Look seldom, in this process, too: with nearly all
    objects out of sight, Python takes those of every batch for many."""
    import meshtasks.state.history  # noqa: F401, PLC0415 - loads SQLAlchemy

    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTION_THRESHOLD)
