"""Tests in several processes, which are collected once.

pytest-xdist starts processes that read all tests each: eight seconds of processor a
process, and eighteen in a new clone, where all compile the same files at the same time.
Here one process reads them, and forks those that run them. A file's tests run in one
process, which gets its next file when it has none left.
"""

from __future__ import annotations

import gc
import os
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest


@dataclass
class _Process:
    """A process that runs tests, as the one that collected them sees it.

    Attributes:
        pid: its process id.
        connection: to it.
        left: indices of tests that no other process gets.
        given: indices of tests that it has not finished: one that it runs, and the one
            after it, which says what fixtures pytest leaves as they are.
    """

    pid: int
    connection: Connection
    left: deque[int] = field(default_factory=deque)
    given: deque[int] = field(default_factory=deque)


class Forking:
    """Plugin of pytest that runs the collected tests in processes.

    Args:
        count: of processes.
        group_of: what the tests of a node id are run together with.
    """

    def __init__(self, count: int, group_of: Callable[[str], str]) -> None:
        self._count = count
        self._group_of = group_of
        self._processes: list[_Process] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the tests, and report them as if they ran here."""
        config = session.config
        if config.option.collectonly or session.testsfailed:
            return None  # pytest's own says what is to be said
        # The names of files would be those of all processes by turns.
        if reporter := config.pluginmanager.getplugin("terminalreporter"):
            reporter.showfspath = False
        groups = self._groups(session.items)
        # What is collected stays: nobody needs to look for garbage in it.
        gc.collect()
        gc.freeze()
        self._run(session, groups)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if groups and not session.shouldstop:
            session.shouldstop = "no process is left to run the other tests"
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _run(self, session: pytest.Session, groups: deque[deque[int]]) -> None:
        """Start processes, and answer them until they end."""
        try:
            for _ in range(min(self._count, len(groups))):
                self._fork(session)
            while self._processes:
                ready = wait([process.connection for process in self._processes])
                for process in self._processes.copy():
                    if process.connection in ready:
                        self._answer(session, process, groups)
        finally:
            for process in self._processes:
                process.connection.close()  # ends it after its test
                os.waitpid(process.pid, 0)
            gc.unfreeze()

    def _groups(self, items: Sequence[pytest.Item]) -> deque[deque[int]]:
        """Indices of the tests by what they run together with: groups of several files
        first, which take longest."""
        groups: dict[str, deque[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(self._group_of(item.nodeid), deque()).append(index)
        return deque(
            sorted(
                groups.values(),
                key=lambda indices: len({items[index].path for index in indices}) == 1,
            )
        )

    def _answer(
        self, session: pytest.Session, process: _Process, groups: deque[deque[int]]
    ) -> None:
        """Do what a process asks for."""
        try:
            kind, values = process.connection.recv()
        except EOFError:
            self._ended(session, process)
            return
        hook = session.config.hook
        if kind == "next":
            if not process.left and groups:
                process.left = groups.popleft()
            stops = session.shouldfail or session.shouldstop
            index = process.left.popleft() if process.left and not stops else None
            if index is not None:
                process.given.append(index)
            process.connection.send(index)
        elif kind == "report":
            report = hook.pytest_report_from_serializable(
                config=session.config, data=values
            )
            hook.pytest_runtest_logreport(report=report)
        elif kind == "finish":
            process.given.popleft()
            hook.pytest_runtest_logfinish(nodeid=values[0], location=values[1])
        else:
            hook.pytest_warning_recorded.call_historic(kwargs=values)

    def _fork(self, session: pytest.Session, left: Iterable[int] = ()) -> None:
        here, there = Pipe()
        pid = os.fork()
        if pid:
            there.close()
            self._processes.append(_Process(pid, here, deque(left)))
            return
        status = 1
        try:
            here.close()
            for process in self._processes:
                process.connection.close()
            _Worker(session, there).run()
            status = 0
        except Exception:  # noqa: BLE001 - this process has no caller to tell it
            traceback.print_exc()
        finally:
            os._exit(status)

    def _ended(self, session: pytest.Session, process: _Process) -> None:
        """Note that a process ended. The test in which it did has failed, and another
        process goes on after it."""
        self._processes.remove(process)
        _, status = os.waitpid(process.pid, 0)
        if process.given:
            item = session.items[process.given.popleft()]
            process.left.extendleft(process.given)
            reason = f"its process ended with {os.waitstatus_to_exitcode(status)}"
            report = pytest.TestReport(
                item.nodeid, item.location, {}, "failed", reason, "call"
            )
            session.config.hook.pytest_runtest_logreport(report=report)
            self._fork(session, process.left)


class _Worker:
    """Runs tests in a process that was forked, and reports them.

    Args:
        session: the tests.
        connection: to the process that collected them.
    """

    def __init__(self, session: pytest.Session, connection: Connection) -> None:
        self._session = session
        self._config = session.config
        self._connection = connection

    def run(self) -> None:
        """Run tests while there are any."""
        session = self._session
        plugins = self._config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(self)
        _own_files(self._config)
        try:
            index = self._next()
            while index is not None:
                after = self._next()
                item = session.items[index]
                item.config.hook.pytest_runtest_protocol(
                    item=item, nextitem=None if after is None else session.items[after]
                )
                index = after
        finally:
            plugins.getplugin("runner").pytest_sessionfinish(session)

    def _next(self) -> int | None:
        self._connection.send(("next", None))
        index: int | None = self._connection.recv()
        return index

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pass a report on."""
        data = self._config.hook.pytest_report_to_serializable(
            config=self._config, report=report
        )
        self._connection.send(("report", data))

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        """Pass the end of a test on."""
        self._connection.send(("finish", (nodeid, location)))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: Any,
    ) -> None:
        """Pass a warning on; those of collecting are known."""
        if when == "runtest":
            warned = warnings.WarningMessage(
                str(warning_message.message),
                warning_message.category,
                warning_message.filename,
                warning_message.lineno,
            )
            values = {
                "warning_message": warned,
                "when": when,
                "nodeid": nodeid,
                "location": location,
            }
            self._connection.send(("warning", values))


def _own_files(config: pytest.Config) -> None:
    """Replace the files that processes would share by some of this one's own."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    # Of thousands in one directory, each test would look for the next free number.
    factory = config._tmp_path_factory  # type: ignore[attr-defined]  # noqa: SLF001
    factory._basetemp = factory.getbasetemp() / str(os.getpid())  # noqa: SLF001
    factory.getbasetemp().mkdir()
