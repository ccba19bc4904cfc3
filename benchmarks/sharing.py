"""Several workers on one queue in partitions: what they do with a second of processor
time, and what the broker takes for that.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import yaml

from benchmarks import ROOT
from benchmarks.contenders import MESHTASKS, SENSOR_QUEUE
from benchmarks.drain import Say, preload
from benchmarks.figures import usage
from benchmarks.load import Reading, readings, single
from benchmarks.services import CONFIG, Services, Space
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.demo.process import Process

PARTITIONS = 4
WORKERS = (1, 2, 4)
#: Readings that are handled before the clock runs.
_WARM_UP = 2_000
_LOOK_EVERY_SECONDS = 0.1
_LAST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Share:
    """What a number of workers gave.

    Attributes:
        workers: how many shared the queue.
        readings: handled while the clock ran.
        seconds: for how long it ran.
        worker_seconds: processor time of the workers, their pools included.
        broker_seconds: that of the broker.
        faults: why the ledger does not balance; empty when it does.
    """

    workers: int
    readings: int
    seconds: float
    worker_seconds: float
    broker_seconds: float
    faults: tuple[str, ...]


def measure(services: Services, messages: int, rounds: int, say: Say) -> list[Share]:
    """Let one, two and four workers empty the queue, in each round once."""
    return [
        _measure(services, workers, messages, say)
        for _ in range(rounds)
        for workers in WORKERS
    ]


def _measure(services: Services, workers: int, messages: int, say: Say) -> Share:
    with services.space() as space:
        environment = space.environment() | {"MESH_CONFIG_DIR": str(_divided(space))}
        processes = [
            Process(
                f"worker-{number}",
                [*MESHTASKS.prepared(), "-n", f"sharing{number}@%h", "-l", "INFO"],
                log_path=space.directory / f"worker-{number}.log",
                env=environment,
                cwd=ROOT,
            )
            for number in range(workers)
        ]
        waiting = readings(_WARM_UP + messages)
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.wait_ready(partial(_is_ready, process), _LAST_SECONDS)
            # each imports and connects with its first batch
            _handled(services, space, islice(waiting, _WARM_UP), say)
            broker = services.broker.process.pid
            broker_used, began_at = usage(broker).cpu_seconds, time.monotonic()
            used = _used(processes)
            _handled(services, space, waiting, say)
            seconds = time.monotonic() - began_at
            used = _used(processes) - used
            broker_used = usage(broker).cpu_seconds - broker_used
        finally:
            for process in processes:
                process.stop(within_seconds=30.0)
        faults = _faults(space, _WARM_UP + messages)
    say(
        f"{workers} workers: {messages / used:,.0f} readings for a second of theirs, "
        f"{messages / broker_used:,.0f} for one of the broker, "
        f"{messages / seconds:,.0f}/s"
        + "".join(f", INVALID: {each}" for each in faults)
    )
    return Share(workers, messages, seconds, used, broker_used, faults)


def _divided(space: Space) -> Path:
    """The shipped configuration with the queue in partitions, which are declared."""
    directory = space.directory / "divided"
    shutil.copytree(CONFIG, directory)
    path = directory / "topology.yaml"
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    for queue in shipped["queues"]:
        if queue["name"] == SENSOR_QUEUE:
            queue["partitions"] = PARTITIONS
    path.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    with connected(space.amqp_url) as connection:
        connection.channel().queue_delete(SENSOR_QUEUE)
        declare(connection, load_yaml(path, Topology))
    return directory


def _is_ready(process: Process) -> bool:
    return " ready." in process.output()


def _used(processes: Iterable[Process]) -> float:
    return sum(usage(each.pid).cpu_seconds for each in processes)


def _handled(
    services: Services, space: Space, items: Iterable[Reading], say: Say
) -> None:
    """Publish readings, and wait until they are acknowledged."""
    messages = list(single(items))
    enough = services.acknowledged() + len(messages)
    preload(space, messages, say)
    deadline = time.monotonic() + _LAST_SECONDS
    while services.acknowledged() < enough and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_SECONDS)


def _faults(space: Space, count: int) -> tuple[str, ...]:
    faults = []
    if (points := space.points()) != count:
        faults.append(f"{points:,} stored of {count:,} readings")
    if failed := space.failed():
        faults.append(f"{failed:,} messages dead or to be tried again")
    return tuple(faults)
