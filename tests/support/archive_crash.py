"""Processes that archive a batch and may be killed in the midst of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.archive.handler import archive_events
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE
from meshtasks.records.envelope import Envelope
from tests.support.archive import batch_of
from tests.support.waiting import wait_until

Point = Literal["before the put", "after the put"]


def archive_in_process(
    environment: Environment,
    *messages: Envelope,
    killed: Point | None = None,
    wait_for: Path | None = None,
) -> BaseProcess:
    """Start a process that handles the messages as ``archive.events``.

    Its exit code is 0 if all outcomes are Done, 1 if not, -9 if it was killed.

    Args:
        environment: of its mesh.
        messages: the batch.
        killed: where it kills itself, as out of memory or ``kill -9`` would.
        wait_for: it puts no object before this file exists; while it waits there is
            one named so with ``.reached`` at the end.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(environment, messages, killed, wait_for), daemon=True
    )
    process.start()
    return process


def reached(wait_for: Path) -> Path:
    """The file that shows that a process waits for another."""
    return wait_for.with_name(f"{wait_for.name}.reached")


def _run(
    environment: Environment,
    messages: tuple[Envelope, ...],
    killed: Point | None,
    wait_for: Path | None,
) -> None:
    sinks = Sinks(Settings(environment))
    put = sinks[OBJECTS].put

    def put_or_die(name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        if wait_for is not None:
            reached(wait_for).touch()
            wait_until(wait_for.exists, 30, f"{wait_for} to exist")
        if killed == "before the put":
            os.kill(os.getpid(), signal.SIGKILL)
        put(name, data, metadata)
        if killed == "after the put":
            os.kill(os.getpid(), signal.SIGKILL)

    sinks[OBJECTS].put = put_or_die  # type: ignore[method-assign]  # faults need a place
    outcomes = archive_events(batch_of(*messages), sinks)
    sys.exit(any(outcome != DONE for outcome in outcomes))
