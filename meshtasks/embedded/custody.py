"""Run something that starts processes, and leave none of them behind.

The program becomes two processes. The one that the user sees waits, passes on
the signals it gets, and in the end kills whatever is left of what the other
started. The other does the work, in a session of its own. If the first is killed
(SIGKILL too), the kernel sends the second SIGTERM, and it ends in order; if the
second is killed, the first ends its orphans. So nothing is left unless both are
killed at once.

Linux only: it uses the two ``prctl`` calls that make this exact (a process tree is
followed, no names or command lines are compared).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Ask for an end; passed on to the one that works.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: How long orphans may take to end by themselves before they are killed.
_ORPHANS_SECONDS = 20.0
_POLL_SECONDS = 0.05


def in_custody(work: Callable[[], int]) -> int:
    """Run ``work`` in a process of its own and outlive it.

    Call it while the program has one thread, and end the program with the exit
    code it returns: it returns in both processes.

    Args:
        work: what to do; SIGINT, SIGTERM, SIGHUP and SIGQUIT each raise
            KeyboardInterrupt in it, once for every signal.

    Returns:
        What ``work`` returned; 128 + the signal's number if a signal ended it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    sys.stdout.flush()
    sys.stderr.flush()
    keeper = os.getpid()
    worker = os.fork()
    if worker:
        return _keep(worker)
    for number in _not_ignored():
        signal.signal(number, _interrupt)
    # A session of its own: a signal to the whole group of the first, as `timeout`
    # and terminals send it, must not take both.
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:  # it died before the kernel knew of our interest
        return 128 + signal.SIGTERM
    return work()


def _not_ignored() -> list[signal.Signals]:
    """Those that end this program. `nohup` ignores some, and so do shells for what
    they start in the background."""
    return [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _keep(worker: int) -> int:
    """Wait for the worker and end what it left; return its exit code."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in _not_ignored():
        signal.signal(number, pass_on)
    # Ctrl-Z would suspend this process alone, and the other would go on drawing.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    # Left unreaped until no signal is passed on any more, so its id stays its own.
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None:
        if ended.si_pid == worker:
            break
        os.waitpid(ended.si_pid, 0)
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(worker, 0)
    _end_orphans()
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _end_orphans() -> None:
    """End all descendants: as the nearest subreaper, this process inherits them."""
    asked: set[int] = set()
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while _reap():
        tree = _children_by_parent()
        if time.monotonic() > deadline:
            for pid in _descendants(os.getpid(), tree):
                _send(pid, signal.SIGKILL)
        else:
            # Leaders only, each once: they end their own children in their own way.
            for pid in set(tree[os.getpid()]) - asked:
                asked.add(pid)
                _send(pid, signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _reap() -> bool:
    """Collect children that ended; whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _send(pid: int, number: int) -> None:
    # Our own child keeps its id until it is reaped; a grandchild may be gone.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _descendants(pid: int, tree: dict[int, list[int]]) -> Iterator[int]:
    for child in tree[pid]:
        yield child
        yield from _descendants(child, tree)


def _children_by_parent() -> dict[int, list[int]]:
    """Every process of the machine, by its parent (proc(5), /proc/pid/stat)."""
    tree: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The second field is the name in brackets, which may hold anything.
                after_name = (entry / "stat").read_text().rpartition(")")[2]
                tree[int(after_name.split()[1])].append(int(entry.name))
    return tree
