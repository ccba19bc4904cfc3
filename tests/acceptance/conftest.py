"""What acceptance tests share."""

from __future__ import annotations

import pytest

from tests.support.wheels import unpacked_wheel, wheel_environment


@pytest.fixture(scope="session")
def wheel_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an installed package."""
    return wheel_environment(unpacked_wheel(tmp_path_factory.mktemp("wheel")))
