"""What is used of kombu beyond what it documents: whose connections its transports
open, and (in ``meshtasks/amqp/__init__.py``, which imports next to nothing) the table
of its transports. ``tests/unit/test_pyamqp_internals.py`` opens one of each kind.
"""

from __future__ import annotations

from kombu.transport import pyamqp

from meshtasks.amqp.receiving import ReceivingConnection


class Transport(pyamqp.Transport):  # type: ignore[misc]  # kombu ships no types
    """What kombu opens for ``amqp://``."""

    Connection = ReceivingConnection


class TLSTransport(pyamqp.SSLTransport):  # type: ignore[misc]  # kombu ships no types
    """What kombu opens for ``amqps://``."""

    Connection = ReceivingConnection
