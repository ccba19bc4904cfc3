"""A process that archives one batch and may be killed in the midst of it.

Reads a :class:`Job` as JSON from its first argument, handles the job's messages as
``archive.events`` and ends with exit code 0 when all outcomes are Done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from meshtasks.domain.outcome import DONE
from meshtasks.settings import Environment, Settings
from meshtasks.sinks import Sinks
from meshtasks.sinks.objects import ObjectStore
from meshtasks.tasks.archive import archive_events
from tests.support.archive import batch_of, message

Killed = Literal["before the put", "after the put", "never"]


class Job(BaseModel):
    """What the process is to do.

    Attributes:
        environment: fields of its :class:`~meshtasks.settings.Environment`.
        bodies: JSON of each message, by message id.
        killed: when it kills itself.
        wait_for: the put begins once this file exists.
    """

    environment: dict[str, str]
    bodies: dict[str, str]
    killed: Killed = "never"
    wait_for: Path | None = None


def start(environment: Environment, bodies: Mapping[str, str], **more: Any) -> Any:
    """Start the process; the rest of a :class:`Job` may be given."""
    fields = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in environment
        if name.startswith(("archive", "minio", "state", "config"))
    }
    job = Job(
        environment={name: str(value) for name, value in fields.items()},
        bodies=dict(bodies),
        **more,
    )
    command = [sys.executable, "-m", __name__, job.model_dump_json()]
    return subprocess.Popen(command)  # noqa: S603 - our own command
