"""A child process that is started, watched and ended by the one who made it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from rich.console import Console

from meshtasks.errors import MeshError

_POLL_SECONDS = 0.02
#: How long helpers of a process may live on after it has ended.
_RELEASE_SECONDS = 5.0
_TAIL_LINES = 30


class ProcessFailed(MeshError):
    """A child process could not be started, or ended or hung while starting."""


class Process:
    """One program, run in a process group of its own, writing to a log file.

    The group keeps a terminal's Ctrl-C away from the child: who started it ends
    it. A lock on the log file is inherited by the child and by whatever it
    starts. It keeps two of them from sharing a directory, even when the first
    outlived its parent, and tells when the last of them has gone.

    Args:
        name: what it is called in error messages.
        command: program and arguments; no secrets, since every user of the
            machine can read them.
        log_path: file that its output is appended to.
        env: its whole environment; the parent's when not given.
        stop_seconds: how long it may take to end in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_seconds: float = 20.0,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log_path = log_path
        self._env = env
        self._cwd = cwd
        self._stop_seconds = stop_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its process group.

        Raises:
            ProcessFailed: it has not been started.
        """
        if self._child is None:
            message = f"{self.name} has not been started"
            raise ProcessFailed(message)
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._child is not None and not self._has_exited(self._child)

    def start(self) -> None:
        """Start it; returns at once (see :meth:`wait_ready`).

        Raises:
            ProcessFailed: the program is missing, or one with the same log
                file is still running.
        """
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            if self._is_locked(log):
                message = (
                    f"{self.name} is running already: "
                    f"another process is writing to {self.log_path}"
                )
                raise ProcessFailed(message)
            self._log_start_bytes = log.seek(0, os.SEEK_END)
            try:
                self._child = subprocess.Popen(  # noqa: S603 - our own command
                    self.command,
                    env=self._env,
                    cwd=self._cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                message = f"{self.name} could not be started: {error}"
                raise ProcessFailed(message) from error

    def wait_ready(self, ready: Callable[[], bool], within_seconds: float) -> None:
        """Return when ``ready`` says so; otherwise end the process.

        It must run, too, or another server on its port would be taken for it.

        Raises:
            ProcessFailed: it ended, or was not ready in time; the text carries
                the end of its log.
        """
        deadline = time.monotonic() + within_seconds
        while not (ready() and self.running):
            if not self.running:
                message = f"{self.name} ended while starting"
                break
            if time.monotonic() > deadline:
                message = f"{self.name} was not ready within {within_seconds:g} s"
                break
            time.sleep(_POLL_SECONDS)
        else:
            return
        self.kill()
        message += f"; the end of {self.log_path}:\n{self.tail()}"
        raise ProcessFailed(message)

    def stop(self, within_seconds: float | None = None) -> int | None:
        """Ask it to end (SIGTERM), insist (SIGKILL) after ``within_seconds``, by
        default those that it was made with.

        The signal goes to the process itself, which ends its own children in
        its own way; whatever it leaves of its group is killed.

        Returns:
            Its exit code, negative for a signal; None when never started.
        """
        child = self._child
        if child is None:
            return None
        if not self._has_exited(child):
            os.kill(child.pid, signal.SIGTERM)
        if within_seconds is None:
            within_seconds = self._stop_seconds
        deadline = time.monotonic() + within_seconds
        while not self._has_exited(child) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return self._end_group(child)

    def kill(self) -> None:
        """End it and its whole group at once, without a chance to tidy up."""
        if self._child is not None:
            self._end_group(self._child)

    def output(self) -> str:
        """What it has written since it was last started."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start_bytes)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines of :meth:`output`."""
        return "\n".join(self.output().splitlines()[-_TAIL_LINES:])

    @staticmethod
    def _is_locked(log: IO[bytes]) -> bool:
        """Take the lock, unless a process that inherited it still lives."""
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    @staticmethod
    def _has_exited(child: subprocess.Popen[bytes]) -> bool:
        """Whether it ended, leaving it unreaped: its id stays its own."""
        if child.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, child.pid, flags) is not None

    def _end_group(self, child: subprocess.Popen[bytes]) -> int:
        """Kill what is left of the group, reap the child, await its helpers.

        In this order, because once the child is reaped another process group
        may be given its id. Helpers in groups of their own (Erlang has some)
        end when they notice that the child is gone.
        """
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
        exit_code = child.wait()
        deadline = time.monotonic() + _RELEASE_SECONDS
        with self.log_path.open("ab") as log:
            while self._is_locked(log) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        return exit_code


class Server:
    """A server of its own on loopback, ended where its context ends.

    Args:
        process: the program.
        is_ready: whether it answers.
    """

    def __init__(self, process: Process, is_ready: Callable[[], bool]) -> None:
        self.process = process
        self._is_ready = is_ready

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process.running

    def start(self, within_seconds: float = 300.0) -> None:
        """Start it and wait until it answers.

        Raises:
            ProcessFailed: it did not; the text carries the end of its log.
        """
        self.process.start()
        self.process.wait_ready(self._is_ready, within_seconds)

    def stop(self) -> None:
        """End it in order, as a machine's shutdown would."""
        self.process.stop()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it, if it runs, and start it on the same ports and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Steps:
    """Steps that take a while: a spinner meanwhile, then a tick and the time taken."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that ``what`` goes on; tick it off unless it fails."""
        began = time.monotonic()
        # Without a terminal rich shows no spinner.
        with self._console.status(f"{what} …"):
            yield
        spent_seconds = time.monotonic() - began
        self._console.print(f" [green]✓[/] {what:<44} {spent_seconds:5.1f} s")


def stop_together(parts: Sequence[Process | Server]) -> None:
    """End them in order at the same time, because each takes its time."""
    first, *others = parts
    threads = [threading.Thread(target=each.stop) for each in others]
    for thread in threads:
        thread.start()
    first.stop()
    for thread in threads:
        thread.join()


class Shutdown:
    """Stops parts, the last one first. An interrupt meanwhile means: at once."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parts: list[tuple[str, Sequence[Process | Server]]] = []

    def add(self, name: str, *parts: Process | Server) -> None:
        """Add something before it is started; it is not spoken of when it does not run.

        Args:
            name: what people know it by.
            parts: what stops at the same time.
        """
        self._parts.append((name, parts))

    def run(self, *, at_once: bool = False) -> None:
        """Stop everything."""
        while self._parts:
            name, parts = self._parts.pop()
            try:
                if not at_once and any(each.running for each in parts):
                    with self._steps.step(f"stopping {name}"):
                        stop_together(parts)
                elif not at_once:
                    stop_together(parts)  # what it may have left behind
            except KeyboardInterrupt:
                at_once = True
            finally:
                for each in parts:
                    each.kill()  # nothing is left to kill if it was stopped
