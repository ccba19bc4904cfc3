"""Servers and networks for tests of publishing.

============  ===========================================================
``mesh_url``  a virtual host with the shipped topology, for each test
``proxy``     a network between a test and the session's RabbitMQ, to cut
============  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshtasks.embedded.rabbitmq import RabbitMQ
from meshtasks.messaging.connecting import connected
from meshtasks.messaging.entities import declare
from tests.support.proxy import Proxy
from tests.support.topologies import shipped_topology


@pytest.fixture
def mesh_url(amqp_url: str) -> str:
    """AMQP URL of a virtual host with the topology of the mesh."""
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    return amqp_url


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy in front of the session's RabbitMQ."""
    with Proxy(rabbitmq.ports.amqp) as proxy:
        yield proxy
