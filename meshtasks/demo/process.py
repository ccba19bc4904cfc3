"""Child processes: start, wait until ready, and stop."""

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
#: Longest wait for helpers of a process after it has ended.
_RELEASE_SECONDS = 5.0
_TAIL_LINES = 30


class ProcessFailed(MeshError):
    """A child process could not be started, or ended or hung while starting."""


class Process:
    """A program in a process group of its own, with a log file.

    The process group protects it from a terminal's Ctrl-C, so that only this object
    ends it. The process and everything it starts inherit a lock on the log file. The
    lock prevents two processes from sharing a directory, even if the first has outlived
    its parent, and shows when all of them have ended.

    Args:
        name: for error messages.
        command: program and arguments; no secrets, since all users can read them.
        log_path: file to which its output is appended.
        env: its whole environment; by default the parent's.
        cwd: its working directory; by default the parent's.
        stop_seconds: time it gets to end cleanly.
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
        """Process id, which is also the id of the process group.

        Raises:
            ProcessFailed: the process has not been started.
        """
        if self._child is None:
            message = f"{self.name} has not been started"
            raise ProcessFailed(message)
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._child is not None and not self._has_exited(self._child)

    def start(self) -> None:
        """Start the process without waiting (see :meth:`wait_ready`).

        Raises:
            ProcessFailed: the program cannot be started, or another one with the same
                log file is running.
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
        """Wait until ``ready`` returns true and the process runs; else kill it.

        The process must run too, because another server on its port may respond.

        Raises:
            ProcessFailed: it ended, or was not ready in time; the text has the end of
                its log.
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
        """Send SIGTERM, and SIGKILL after ``within_seconds``.

        SIGTERM goes only to the process itself, which ends its own children. What is
        left of its process group is killed.

        Args:
            within_seconds: by default the ``stop_seconds`` of the process.

        Returns:
            The exit code, negative for a signal; None if never started.
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
        """Kill the process and its whole group at once."""
        if self._child is not None:
            self._end_group(self._child)

    def output(self) -> str:
        """Return the output since the last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start_bytes)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """Return the last lines of :meth:`output`."""
        return "\n".join(self.output().splitlines()[-_TAIL_LINES:])

    @staticmethod
    def _is_locked(log: IO[bytes]) -> bool:
        """Lock the log file; return true if another process holds the lock."""
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    @staticmethod
    def _has_exited(child: subprocess.Popen[bytes]) -> bool:
        """Return whether it has ended, without reaping it, so its id stays valid."""
        if child.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, child.pid, flags) is not None

    def _end_group(self, child: subprocess.Popen[bytes]) -> int:
        """Kill the rest of the group, reap the child, and wait for its helpers.

        The order matters: after the child is reaped, another process group may get its
        id. Helpers in other groups (Erlang has some) end when the child is gone.
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
    """A server on loopback; its context manager starts and stops it.

    Args:
        process: the program.
        is_ready: returns whether the server responds.
    """

    def __init__(self, process: Process, is_ready: Callable[[], bool]) -> None:
        self.process = process
        self._is_ready = is_ready

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self.process.running

    def start(self, within_seconds: float = 300.0) -> None:
        """Start the server and wait until it responds.

        Raises:
            ProcessFailed: it does not; the text has the end of its log.
        """
        self.process.start()
        self.process.wait_ready(self._is_ready, within_seconds)

    def stop(self) -> None:
        """Stop the server cleanly, like a shutdown of the machine."""
        self.process.stop()

    def kill(self) -> None:
        """Kill the server (SIGKILL), like a crash."""
        self.process.kill()

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same ports and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Steps:
    """Shows steps that take time: a spinner, then a tick and the time taken."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that ``what`` is in progress; tick it unless it fails."""
        began = time.monotonic()
        # rich shows no spinner without a terminal.
        with self._console.status(f"{what} …"):
            yield
        spent_seconds = time.monotonic() - began
        self._console.print(f" [green]✓[/] {what:<44} {spent_seconds:5.1f} s")


def stop_together(parts: Sequence[Process | Server]) -> None:
    """Stop several parts at the same time, since each may take long."""
    first, *others = parts
    threads = [threading.Thread(target=each.stop) for each in others]
    for thread in threads:
        thread.start()
    first.stop()
    for thread in threads:
        thread.join()


class Shutdown:
    """Stops parts in reverse order of their start; an interrupt kills the rest."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parts: list[tuple[str, Sequence[Process | Server]]] = []

    def add(self, name: str, *parts: Process | Server) -> None:
        """Add parts before they are started. Parts that do not run are not shown.

        Args:
            name: for the user.
            parts: stopped at the same time.
        """
        self._parts.append((name, parts))

    def run(self, *, at_once: bool = False) -> None:
        """Stop all parts.

        Args:
            at_once: whether to kill them without a clean end.
        """
        while self._parts:
            name, parts = self._parts.pop()
            try:
                if not at_once and any(each.running for each in parts):
                    with self._steps.step(f"stopping {name}"):
                        stop_together(parts)
                elif not at_once:
                    stop_together(parts)  # ends helpers that may be left
            except KeyboardInterrupt:
                at_once = True
            finally:
                for each in parts:
                    each.kill()  # does nothing if it was stopped
