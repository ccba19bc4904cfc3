"""Requests to a model that does nothing: what the mesh costs, and what stacking gives.

The ceilings are loops around tritonclient in one process, without a
broker: one request after the other, and as many rows in each as the mesh stacks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

from benchmarks import ROOT
from benchmarks.drain import Say, preload
from benchmarks.figures import Rate
from benchmarks.services import Services, Space
from meshtasks.amqp.publisher import Outgoing
from meshtasks.demo.packages import ensure_triton
from meshtasks.demo.process import Process
from meshtasks.demo.servers import Triton

MODELS = Path(__file__).with_name("models")
REQUESTS, RESULTS = "ai.inference.requests", "ai.inference.results"
ROWS = 64
WINDOW = 24

_WORKER = (sys.executable, "-m", "celery", "-A", "meshtasks", "worker", "-c", "1", "-Q")

_MESSAGES = 20_000
_BARE_REQUESTS = 3_000
_STALLED_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.05


PART = "inference"


def measure(
    services: Services, directory: Path, rounds: int, say: Say
) -> Iterator[Rate]:
    """The two ceilings and the mesh without and with stacking, then all again.

    Raises:
        InstallFailed: there is no Triton, and none could be installed.
    """
    ensure_triton()
    with Triton(directory / "triton", [MODELS]) as triton:
        for number in range(1, rounds + 1):
            say(f"inference, round {number} of {rounds}")
            for rate in _round(services, triton):
                say(f"  {rate.what}: {rate.per_second:,.0f} windows/s")
                yield rate


def _round(services: Services, triton: Triton) -> Iterator[Rate]:
    bare = "bare tritonclient, {} in each request"
    single, stacked = bare.format("1 window"), bare.format(f"{ROWS} windows")
    yield Rate(PART, single, _bare_rate(triton, "nothing-single", 1))
    what = "meshtasks, not stacked"
    yield _mesh_rate(services, triton, "nothing-single", what, single)
    yield Rate(PART, stacked, _bare_rate(triton, "nothing", ROWS))
    yield _mesh_rate(services, triton, "nothing", "meshtasks, stacked", stacked)


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


def _mesh_rate(
    services: Services, triton: Triton, model: str, what: str, ceiling: str
) -> Rate:
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
            rate = _rate_until_resolved(services, before)
        finally:
            worker.stop()
        return Rate(PART, what, rate, ceiling, faults=tuple(_faults(space)))


def _requests(model: str) -> Iterator[Outgoing]:
    shape, data = [1, WINDOW], [20.0 + number / 10 for number in range(WINDOW)]
    window = {"name": "window", "shape": shape, "datatype": "FP32", "data": data}
    for number in range(_MESSAGES):
        record = {"request_id": f"r{number}", "model": model, "inputs": [window]}
        yield Outgoing("ai", f"ai.model.{model}", json.dumps(record).encode())


def _rate_until_resolved(services: Services, before: int) -> float:
    """Requests a second, from the first that is seen to be resolved to the last."""
    first: tuple[int, float] | None = None
    resolved, changed_at = 0, time.monotonic()
    while resolved < _MESSAGES:
        time.sleep(_LOOK_EVERY_SECONDS)
        now, seen = time.monotonic(), services.acknowledged() - before
        if seen > resolved:
            resolved, changed_at = seen, now
            first = first or (seen, now)
        if now - changed_at > _STALLED_SECONDS:
            break
    if first is None or changed_at == first[1]:
        return 0.0
    return (resolved - first[0]) / (changed_at - first[1])


def _faults(space: Space) -> Iterator[str]:
    if left := space.ready(REQUESTS):
        yield f"{left:,} requests left"
    if failed := space.failed():
        yield f"{failed:,} requests dead or to be tried again"
    if (answered := space.ready(RESULTS)) != _MESSAGES:
        yield f"{answered:,} answers to {_MESSAGES:,} requests"
