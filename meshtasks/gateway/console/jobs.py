"""Work that goes on while pages come and go: its progress is shown, and it can be ended
from any page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from meshtasks.errors import MeshError
from meshtasks.masking import masked

logger = logging.getLogger(__name__)

#: Lines that are kept of what was found.
_LINES = 200


class Job:
    """Work in a thread of its own.

    Args:
        name: what it does, as the beginning of a sentence: ``Verifying``.
        who: has started it.
        work: does it; looks at :attr:`stopping` now and then, and tells of its
            progress. What it raises of the mesh's errors becomes :attr:`fault`.

    Attributes:
        summary: what has come of it.
        fault: why it ended before its end.
        lines: what was found; the first of it.
        ended_at: epoch seconds; None while it goes on.
    """

    def __init__(self, name: str, who: str, work: Callable[[Job], None]) -> None:
        self.name = name
        self.who = who
        self.stopping = threading.Event()
        self.started_at = time.time()
        self.ended_at: float | None = None
        self.done, self.total, self.note = 0, 0, ""
        self.lines: list[str] = []
        self.more_lines = 0
        self.summary = ""
        self.fault = ""
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        logger.info("%s, for %s on the console", self.name, self.who)
        self._thread.start()

    def stop(self) -> None:
        """Have it end soon."""
        self.stopping.set()

    def wait(self, within_seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(within_seconds)

    def report(self, done: int, total: int, note: str = "") -> None:
        """Say how much is done."""
        self.done, self.total, self.note = done, total, note

    def say(self, line: str) -> None:
        """Say what was found."""
        if len(self.lines) < _LINES:
            self.lines.append(line)
        else:
            self.more_lines += 1

    @property
    def runs(self) -> bool:
        """Whether it goes on."""
        return self.ended_at is None

    def state(self) -> str:
        """How it stands, as a sentence."""
        if self.runs:
            ending = "is being ended" if self.stopping.is_set() else "under way"
            note = f", {self.note}" * bool(self.note)
            return (
                f"{self.name}: {ending}, {self.done:,} of {self.total:,} objects{note} "
                f"(started by {self.who})"
            )
        if self.fault:
            return f"{self.name} failed: {self.fault}"
        how = "was ended" if self.stopping.is_set() else "is done"
        return f"{self.name} {how}. {self.summary}"

    def _run(self) -> None:
        try:
            self._work(self)
        except MeshError as error:
            self.fault = masked(str(error))
        except Exception:
            self.fault = "a fault of the gateway; its log says more"
            logger.exception("%s failed", self.name)
        finally:
            self.ended_at = time.time()
            logger.info("%s", self.state())


class Jobs:
    """One job at a time; the last one is remembered."""

    def __init__(self) -> None:
        self.last: Job | None = None
        self._lock = threading.Lock()

    def start(self, job: Job) -> Job | None:
        """Start it, unless another goes on, which is returned."""
        with self._lock:
            if self.last is not None and self.last.runs:
                return self.last
            self.last = job
        job.start()
        return None

    def stop(self, within_seconds: float = 5.0) -> None:
        """End what goes on."""
        if self.last is not None and self.last.runs:
            self.last.stop()
            self.last.wait(within_seconds)
