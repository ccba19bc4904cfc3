"""Limits of the gateway."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile


class GatewayConfig(ConfigModel):
    """config/gateway.yaml.

    Attributes:
        max_body_bytes: size of the largest body that is accepted.
        requests_per_second: average rate of requests permitted to one token.
        burst: requests permitted to one token at once, after a pause.
        keep_keys_hours: how long an ``Idempotency-Key`` is kept.
        keep_tasks_days: how long a task is kept after its last update.
    """

    max_body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    requests_per_second: Annotated[float, Field(gt=0)] = 50.0
    burst: Annotated[int, Field(ge=1)] = 200
    keep_keys_hours: Annotated[float, Field(gt=0)] = 24.0
    keep_tasks_days: Annotated[float, Field(gt=0)] = 7.0


GATEWAY = ConfigFile("gateway.yaml", GatewayConfig)
