"""Where a message goes, as the model of RabbitMQ's routing has it.

The same cases run against the broker in tests/integration/test_topology.py.
"""

from __future__ import annotations

import pytest

from tests.support.topologies import ROUTES, shipped_topology


@pytest.mark.parametrize(("exchange", "routing_key", "queues"), ROUTES)
def test_a_message_reaches(exchange: str, routing_key: str, queues: set[str]) -> None:
    assert shipped_topology().queues_reached(exchange, routing_key) == queues


def test_the_default_exchange_leads_to_the_queue_the_key_names() -> None:
    topology = shipped_topology()

    assert topology.queues_reached("", "retry.5") == {"retry.5"}
    assert topology.queues_reached("", "nowhere") == set()
