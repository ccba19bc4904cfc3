"""Networks for tests of publishing.

=========  ===========================================================
``proxy``  a network between a test and the session's RabbitMQ, to cut
=========  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshtasks.embedded.rabbitmq import RabbitMQ
from tests.support.proxy import Proxy


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy in front of the session's RabbitMQ."""
    with Proxy(rabbitmq.ports.amqp) as proxy:
        yield proxy
