"""Celery's connections to the broker; they connect to any available node."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP

from meshtasks.amqp.connecting import Connection


class NodesAMQP(AMQP):  # type: ignore[misc]  # celery ships no types
    """Makes all connections of Celery: of the worker, of events and remote control, and
    of Flower."""

    Connection = Connection
    BrokerConnection = Connection


def new_app(name: str, url: str, **options: Any) -> Celery:
    """Create a Celery application.

    Args:
        url: AMQP URL, or several URLs separated by ``;``.
    """
    return Celery(name, broker=url, amqp=NodesAMQP, **options)
