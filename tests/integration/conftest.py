"""What tests of publishing need between them and the session's RabbitMQ.

==========  ===========================================================
``proxy``   a network between a test and the session's RabbitMQ, to cut
``house``   a Home Assistant that says what a real one said
``follow``  follows that house with a producer of its events
==========  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtasks.embedded.rabbitmq import RabbitMQ
from tests.support.following import Follow, following
from tests.support.homeassistant import ReplayedHomeAssistant
from tests.support.proxy import Proxy


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy in front of the session's RabbitMQ."""
    with Proxy(rabbitmq.ports.amqp) as proxy:
        yield proxy


@pytest.fixture
def house() -> Iterator[ReplayedHomeAssistant]:
    """A Home Assistant that says what a real one said."""
    with ReplayedHomeAssistant() as house:
        yield house


@pytest.fixture
def follow(house: ReplayedHomeAssistant, mesh_url: str, tmp_path: Path) -> Follow:
    """Follows the house."""
    return following(house, mesh_url, tmp_path / "states.json")
