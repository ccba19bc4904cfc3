"""F6: the composition root. Settings, topology and handlers become the one Celery
application that ``celery -A meshtasks`` finds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery import Celery

from meshtasks.amqp.connecting import connected, tls_of, unopened
from meshtasks.amqp.declare import task_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.builtin import COMMANDS, FILES, handlers_of
from meshtasks.flows.command import Command
from meshtasks.flows.contract import Handler
from meshtasks.gateway.config import GATEWAY
from meshtasks.worker import inspection  # noqa: F401 - registers its answers
from meshtasks.worker.commands import register_commands
from meshtasks.worker.mesh import attach
from meshtasks.worker.program import MeshWorker, end


def create_app(
    settings: Settings,
    handlers: Mapping[str, Handler],
    commands: Mapping[str, Command[Any]] = COMMANDS,
) -> Celery:
    """The application for these settings, consuming the queues of these handlers and
    running these commands.

    Raises:
        ConfigError: a configuration file or the archive URL is bad.
    """
    settings.validate((*FILES, GATEWAY))
    unopened(settings.env.amqp_url)  # refuses a URL that is no AMQP URL
    open_store(settings.env).close()  # refuses an archive URL that cannot be one
    app = Celery("meshtasks", broker=settings.env.amqp_url)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,  # the broker may be away for days
        broker_connection_retry_on_startup=True,
        broker_heartbeat=30,
        broker_use_ssl=tls_of(settings.env.amqp_url),
        result_backend="meshtasks.worker.commands:AnswersBackend",
        event_queue_expires=60,
        task_acks_late=True,
        task_create_missing_queues=False,
        task_default_queue=settings.read(TOPOLOGY).commands_queue,
        task_queues=task_queues(settings.read(TOPOLOGY)),
        # By queue alone: beside a routing key, the queue a caller names is ignored.
        task_routes={queue: {"queue": queue} for queue in handlers},
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,  # what is taken early waits behind another
        worker_consumer="meshtasks.worker.consumer:MeshConsumer",
        worker_send_task_events=True,
        worker_max_memory_per_child=512_000,  # KiB; a belt against leaks in clients
    )
    app.Worker = app.subclass_with_self(MeshWorker)
    attach(app, settings, handlers, commands.keys())
    register_commands(app, settings, commands)
    return app


#: Celery's commands that show a broker's refusal as a traceback, Flower every second.
#: A worker says itself what is refused.
_ASKING = frozenset({"call", "control", "events", "flower", "inspect", "status"})


def _asks_the_broker() -> bool:
    program, *arguments = sys.argv or [""]
    return "celery" in program and not _ASKING.isdisjoint(arguments)


def __getattr__(name: str) -> Celery:
    """``app``, built when ``celery -A meshtasks`` asks for it: importing this module
    needs no settings."""
    if name != "app":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    try:
        settings = load_settings()
        settings.validate((*FILES, GATEWAY))
        if _asks_the_broker():
            with suppress(Transient), connected(settings.env.amqp_url):
                pass
        app = globals()["app"] = create_app(settings, handlers_of(settings))
    except ConfigError as error:
        end(error)
    return app
