"""What a time-series store says of how long it keeps points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshtasks.config.environment import Environment
from meshtasks.flows.timeseries_queries import retention_of
from tests.support.receiver import Answer, Receiver

DAY = 86_400


def env(store: Receiver) -> Environment:
    return Environment(
        _env_file=None,
        influx_url=store.url,
        influx_bucket="mesh",
        influx_org="home",
        influx_token="t0ken-of-a-test",
        state_dir=Path("state"),
    )


def bucket(name: str, *rules: object) -> bytes:
    found = {"name": name, "orgID": "0", "retentionRules": rules}
    return json.dumps({"buckets": [found]}).encode()


def test_an_influxdb_tells_how_long_a_bucket_keeps_points() -> None:
    rule = {"type": "expire", "everySeconds": 30 * DAY, "shardGroupDurationSeconds": 1}
    with Receiver(Answer(200, bucket("mesh", rule))) as store:
        found = retention_of(env(store), None)

    assert found is not None
    assert found.days == 30
    assert "raise the retention of bucket mesh" in found.fate
    (request,) = store.requests
    assert request.path == "/api/v2/buckets?org=home&name=mesh"
    assert request.headers["authorization"] == "Token t0ken-of-a-test"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, bucket("mesh", {"type": "expire", "everySeconds": 0})),
        Answer(200, bucket("mesh")),
        Answer(200, bucket("other", {"type": "expire", "everySeconds": DAY})),
        Answer(200, b'{"buckets": null}'),
        Answer(200, b"<html>Please log in</html>"),
        Answer(401, b'{"code":"unauthorized"}'),
        Answer(404, b"404 page not found"),
    ],
)
def test_a_store_that_keeps_everything_or_does_not_say_has_no_bound(
    answer: Answer,
) -> None:
    with Receiver(answer) as store:
        assert retention_of(env(store), None) is None
