"""The mesh as a Celery application that waits less for others: the tests' time, and no
rule, is what changes."""

from __future__ import annotations

from meshtasks.amqp import publisher
from meshtasks.celery import app
from meshtasks.flows import circuit

__all__ = ["app"]

circuit.STEADY_SECONDS = 3.0
publisher._BLOCKED_SECONDS = 1.0  # noqa: SLF001 - no setting of a user's
