"""Peers, each installed by the first test that asks for it.

==================  ========================================================
``home_assistant``  a Home Assistant of the test's own, booted and set up
==================  ========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import homeassistant
from tests.peers.homeassistant import HomeAssistant


@pytest.fixture
def home_assistant(tmp_path: Path) -> Iterator[HomeAssistant]:
    """Where to get events from; to stop, kill and start again."""
    homeassistant.install()
    house = HomeAssistant(tmp_path / "homeassistant")
    house.start()
    yield house
    house.kill()
