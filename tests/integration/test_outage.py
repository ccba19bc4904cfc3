"""A producer that is killed while its broker is away."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks import outage
from tests.support.proxy import Proxy


def test_what_was_submitted_before_the_kill_and_after_it_arrives_in_order(
    mesh_url: str, proxy: Proxy, tmp_path: Path
) -> None:
    plan = outage.Plan(before_seconds=0.5, outage_seconds=4.0, after_seconds=0.5)
    environment = {
        **os.environ,
        "MESH_BROKER_URL": proxy.url(mesh_url),
        "MESH_STATE_DIR": str(tmp_path / "state"),
    }

    noted = outage.run(
        environment, tmp_path, plan, proxy.close_door, proxy.open_door, print
    )

    found = outage.arrivals(mesh_url, "sensors.temperature")
    ledger = outage.balance(noted, found)
    assert ledger.submitted > 400
    assert ledger.faults == ()
