"""Real Celery workers as child processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from meshtasks.demo.process import Process
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
#: An application that waits less for what is unavailable.
IMPATIENT = "tests.support.impatient"
CELERY = Path(sys.executable).with_name("celery")
MESHTASKS = CELERY.with_name("meshtasks")
#: ``meshtasks worker``, of another application.
_RUN = (
    "import sys; from importlib import import_module; "
    "from meshtasks.worker.program import run_worker; "
    "run_worker(import_module(sys.argv[1]).app, sys.argv[2:])"
)


class Worker:
    """``meshtasks worker -Q …``, ready to consume.

    Args:
        directory: for its log.
        env: ``MESH_*`` variables.
        queues: what it consumes.
        arguments: further arguments of ``celery worker``.
        app: the application it runs.
        program: another command that runs a worker.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str],
        *queues: str,
        arguments: tuple[str, ...] = ("-c", "1"),
        app: str = "meshtasks",
        program: tuple[str | Path, ...] = (),
    ) -> None:
        own: tuple[str | Path, ...] = (MESHTASKS, "worker")
        if app != "meshtasks":
            own = (sys.executable, "-c", _RUN, app)
        self.process = Process(
            "worker",
            [
                *(program or own),
                *("-Q", ",".join(queues), "-l", "INFO"),
                *arguments,
            ],
            log_path=directory / "worker.log",
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            cwd=directory,
        )

    def start(self) -> None:
        """Start it and wait until it consumes."""
        self.process.start()
        self.process.wait_ready(lambda: " ready." in self.log(), PATIENCE_SECONDS)

    def stop(self) -> int | None:
        """Warm shutdown; gives the exit code."""
        return self.process.stop(PATIENCE_SECONDS)

    def kill(self) -> None:
        """SIGKILL the worker and its pool."""
        self.process.kill()

    def log(self) -> str:
        """What it has logged since it was started."""
        return self.process.output()

    def pool_pids(self) -> list[int]:
        """Process ids of its prefork pool."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """The worker while it runs; its log is shown if the test fails."""
    worker.start()
    try:
        yield worker
    except BaseException:
        sys.stderr.write(worker.log())
        worker.kill()
        raise
    else:
        worker.stop()
