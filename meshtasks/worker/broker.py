"""Celery's way to the broker: to whichever of its nodes answers."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP

from meshtasks.amqp.connecting import Connection


class NodesAMQP(AMQP):  # type: ignore[misc]  # celery ships no types
    """What Celery makes its connections with: the worker's, those of events and remote
    control, and Flower's."""

    Connection = Connection
    BrokerConnection = Connection


def new_app(name: str, url: str, **options: Any) -> Celery:
    """A Celery application.

    Args:
        url: AMQP URL, or several with ``;`` between them.
    """
    return Celery(name, broker=url, amqp=NodesAMQP, **options)
