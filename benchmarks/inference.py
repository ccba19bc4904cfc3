"""Requests to a model that does nothing: what the mesh costs, and what stacking gives.

``python -m benchmarks.inference`` (a minute or so). Exit code 1 when a ledger does
not balance. The ceilings are loops around tritonclient in one process, without a
broker: one request after the other, and as many rows in each as the mesh stacks.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.http import InferenceServerClient, InferInput

from benchmarks.drain import preload
from benchmarks.environments import ROOT
from benchmarks.services import Services, Space
from meshtasks.domain.errors import MeshError
from meshtasks.embedded.packages import InstallFailed, ensure_triton
from meshtasks.embedded.process import Process
from meshtasks.embedded.triton import Triton
from meshtasks.messaging.publisher import Outgoing

MODELS = Path(__file__).with_name("models")
REQUESTS, RESULTS = "ai.inference.requests", "ai.inference.results"
ROWS = 64
WINDOW = 24

_WORKER = (sys.executable, "-m", "celery", "-A", "meshtasks", "worker", "-c", "1", "-Q")

_MESSAGES = 20_000
_BARE_REQUESTS = 3_000
_STALLED_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Rate:
    """What one measurement gave.

    Attributes:
        what: what was measured.
        rows_per_second: windows that the model was given.
        faults: why the ledger does not balance; empty when it does.
    """

    what: str
    rows_per_second: float
    faults: tuple[str, ...] = ()


def measure(services: Services, triton: Triton) -> Iterator[Rate]:
    """The two ceilings, then the mesh without and with stacking."""
    bare = "bare tritonclient, {} in each request"
    yield Rate(bare.format("1 window"), _bare_rate(triton, "nothing-single", 1))
    yield Rate(bare.format(f"{ROWS} windows"), _bare_rate(triton, "nothing", ROWS))
    yield _mesh_rate(services, triton, "nothing-single", "meshtasks, not stacked")
    yield _mesh_rate(services, triton, "nothing", "meshtasks, stacked")


def _bare_rate(triton: Triton, model: str, rows: int) -> float:
    window = np.zeros((rows, WINDOW), np.float32)
    with InferenceServerClient(triton.url) as client:
        began_at = 0.0
        for number in range(_BARE_REQUESTS + 1):
            given = InferInput("window", window.shape, "FP32")
            client.infer(model, [given.set_data_from_numpy(window)]).as_numpy("score")
            if not number:  # the first one is not like the others
                began_at = time.monotonic()
        return _BARE_REQUESTS * rows / (time.monotonic() - began_at)


def _mesh_rate(services: Services, triton: Triton, model: str, what: str) -> Rate:
    with services.space() as space:
        preload(space, _requests(model), lambda _: None)
        env = space.environment(plain=True)
        worker = Process(
            "worker",
            [*_WORKER, REQUESTS],
            log_path=space.directory / "worker.log",
            env={**env, "MESH_TRITON_URL": triton.url},
            cwd=ROOT,
        )
        before = services.acknowledged()
        worker.start()
        try:
            rate = _rate_until_settled(services, before)
        finally:
            worker.stop()
        return Rate(what, rate, tuple(_faults(space)))


def _requests(model: str) -> Iterator[Outgoing]:
    shape, data = [1, WINDOW], [20.0 + number / 10 for number in range(WINDOW)]
    window = {"name": "window", "shape": shape, "datatype": "FP32", "data": data}
    for number in range(_MESSAGES):
        record = {"request_id": f"r{number}", "model": model, "inputs": [window]}
        yield Outgoing("ai", f"ai.model.{model}", json.dumps(record).encode())


def _rate_until_settled(services: Services, before: int) -> float:
    """Requests a second, from the first that is seen to be settled to the last."""
    first: tuple[int, float] | None = None
    settled, changed_at = 0, time.monotonic()
    while settled < _MESSAGES:
        time.sleep(_LOOK_EVERY_SECONDS)
        now, seen = time.monotonic(), services.acknowledged() - before
        if seen > settled:
            settled, changed_at = seen, now
            first = first or (seen, now)
        if now - changed_at > _STALLED_SECONDS:
            break
    if first is None or changed_at == first[1]:
        return 0.0
    return (settled - first[0]) / (changed_at - first[1])


def _faults(space: Space) -> Iterator[str]:
    if left := space.ready(REQUESTS):
        yield f"{left:,} requests left"
    if failed := space.failed():
        yield f"{failed:,} requests dead or to be tried again"
    if (answered := space.ready(RESULTS)) != _MESSAGES:
        yield f"{answered:,} answers to {_MESSAGES:,} requests"


def main() -> int:
    """Measure and print; the process's exit code."""
    table = Table(title="Inference with a model that does nothing")
    table.add_column("what")
    table.add_column("windows/s", justify="right")
    table.add_column("ledger")
    balances = True
    try:
        ensure_triton()
        with (
            tempfile.TemporaryDirectory(prefix="meshtasks-bench-") as directory,
            Services(Path(directory)) as services,
            Triton(Path(directory) / "triton", [MODELS]) as triton,
        ):
            for rate in measure(services, triton):
                balances = balances and not rate.faults
                ledger = "; ".join(rate.faults) or "balances"
                table.add_row(rate.what, f"{rate.rows_per_second:,.0f}", ledger)
    except (InstallFailed, MeshError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    Console().print(table)
    return 0 if balances else 1


if __name__ == "__main__":
    sys.exit(main())
