"""Composition root: makes the Celery application from the settings and the flows.

``celery -A meshtasks`` finds the application here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress

from celery import Celery

from meshtasks.amqp.connecting import connected, unopened
from meshtasks.amqp.declare import task_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.loader import refuse
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.contract import Handler
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.config import GATEWAY
from meshtasks.worker.broker import new_app
from meshtasks.worker.commands import register_commands
from meshtasks.worker.mesh import attach
from meshtasks.worker.program import MeshWorker, end


def create_app(
    settings: Settings, handlers: Mapping[str, Handler] | None = None
) -> Celery:
    """Create the Celery application with all flows.

    Args:
        handlers: handlers by queue, to use instead of those of the flows.

    Raises:
        ConfigError: a configuration file, a URL or a flow is invalid.
    """
    flows = load_flows()
    settings.validate((*flows.files, GATEWAY))
    unopened(settings.env.amqp_url)  # raises for a URL that is not an AMQP URL
    for flow in flows.flows:
        refuse(flow.validate(settings))
    if handlers is None:
        handlers = flows.handlers(settings)
    app = new_app("meshtasks", settings.env.amqp_url)
    app.conf.update(
        accept_content=["json"],
        broker_channel_error_retry=True,  # rights and queues may be put right
        broker_connection_max_retries=None,  # the broker may be away for days
        broker_connection_retry_on_startup=True,
        broker_heartbeat=30,
        result_backend="meshtasks.worker.commands:AnswersBackend",
        event_queue_expires=60,
        task_acks_late=True,
        task_create_missing_queues=False,
        task_default_queue=settings.read(TOPOLOGY).commands_queue,
        task_queues=task_queues(settings.read(TOPOLOGY)),
        # Without routing keys: with one, Celery ignores the queue that a caller names.
        task_routes={queue: {"queue": queue} for queue in handlers},
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,  # prefetched commands would wait for others
        worker_consumer="meshtasks.worker.consumer:MeshConsumer",
        worker_send_task_events=True,
        worker_max_memory_per_child=512_000,  # KiB; limits leaks of client libraries
    )
    app.Worker = app.subclass_with_self(MeshWorker)
    attach(app, settings, handlers, flows.commands.keys())
    register_commands(app, settings, flows.commands)
    return app


#: Celery's commands that show a traceback if the broker refuses the connection (Flower
#: every second). The worker reports a refusal itself.
_ASKING = frozenset({"call", "control", "events", "flower", "inspect", "status"})


def _asks_the_broker() -> bool:
    program, *arguments = sys.argv or [""]
    return "celery" in program and not _ASKING.isdisjoint(arguments)


def __getattr__(name: str) -> Celery:
    """Create ``app`` on first access, so that importing this module needs no settings.

    Raises:
        AttributeError: ``name`` is not ``app``.
        SystemExit: the configuration is invalid; the error is printed.
    """
    if name != "app":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    try:
        settings = load_settings()
        if _asks_the_broker():
            with suppress(Transient), connected(settings.env.amqp_url):
                pass
        app = globals()["app"] = create_app(settings)
    except ConfigError as error:
        end(error)
    return app
