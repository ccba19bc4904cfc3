"""The mesh as a Celery application whose circuits count as steady soon."""

from __future__ import annotations

from meshtasks.celery import app
from meshtasks.flows import circuit

__all__ = ["app"]

circuit.STEADY_SECONDS = 3.0
