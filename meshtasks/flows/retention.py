"""How long the time-series store keeps points, as far as it says.

A VictoriaMetrics tells its flags (:mod:`meshtasks.flows.victoriametrics`). InfluxDB 2
tells the retention of a bucket to a token that may read it: ``GET /api/v2/buckets``,
``retentionRules`` (https://docs.influxdata.com/influxdb/v2/api/). What is older the one
drops without a word, and the other refuses.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple
from urllib.parse import urlencode

from urllib3.exceptions import HTTPError

from meshtasks.config.environment import Environment
from meshtasks.flows.http import pool_manager, request
from meshtasks.flows.victoriametrics import VictoriaMetricsState

_TIMEOUT_SECONDS = 5.0
_OK = 200
_DAY = 86_400.0


class Retention(NamedTuple):
    """What a store keeps.

    Attributes:
        seconds: older points are not kept.
        fate: what becomes of older points, and what to do about it.
    """

    seconds: float
    fate: str

    @property
    def days(self) -> float:
        """The same in days."""
        return self.seconds / _DAY

    def oldest(self) -> float:
        """Epoch seconds; what is older is not kept."""
        return time.time() - self.seconds


def retention_of(
    env: Environment, state: VictoriaMetricsState | None
) -> Retention | None:
    """What the store of ``MESH_INFLUX_URL`` keeps; None if it does not say, or keeps
    everything.

    Args:
        env: where it is.
        state: how it is run, if it is a VictoriaMetrics.
    """
    if state is not None:
        fate = "which would drop them without an error: set its -retentionPeriod"
        return Retention(state.retention_seconds, fate)
    seconds = _of_bucket(env)
    if not seconds:
        return None
    fate = f"which would refuse them: raise the retention of bucket {env.influx_bucket}"
    return Retention(seconds, fate)


def _of_bucket(env: Environment) -> float:
    """Seconds that the bucket of an InfluxDB 2 keeps; 0 for all, or not known."""
    query = urlencode({"org": env.influx_org, "name": env.influx_bucket})
    url = f"{env.influx_url.rstrip('/')}/api/v2/buckets?{query}"
    token = env.influx_token.get_secret_value()
    headers = {"Authorization": f"Token {token}"} if token else {}
    pool = pool_manager(maxsize=1)
    try:
        answer = request(
            pool, "GET", url, timeout_seconds=_TIMEOUT_SECONDS, headers=headers
        )
        content = json.loads(answer.text) if answer.status == _OK else {}
    except (HTTPError, ValueError, RecursionError):
        return 0.0
    finally:
        pool.clear()
    return min(_expiries(content, env.influx_bucket), default=0.0)


def _expiries(content: Any, bucket: str) -> list[float]:
    """After how many seconds the points of a bucket expire, by each of its rules."""
    buckets = content.get("buckets") if isinstance(content, dict) else None
    return [
        float(seconds)
        for each in (buckets if isinstance(buckets, list) else ())
        if isinstance(each, dict) and each.get("name") == bucket
        for rule in (each.get("retentionRules") or ())
        if isinstance(rule, dict) and rule.get("type", "expire") == "expire"
        if isinstance(seconds := rule.get("everySeconds"), int | float) and seconds > 0
    ]
