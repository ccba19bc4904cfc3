"""Run work that starts processes, and leave none of them behind.

The program becomes two processes. A new one, the worker, does the work in a session of
its own. The original one, which the shell knows, becomes the keeper and executes this
file as a program. It forwards signals to the worker and finally ends all processes that
the worker has left. If the keeper is killed (even by SIGKILL), the kernel sends
SIGTERM to the worker, which ends cleanly. If the worker is killed, the keeper inherits
its child processes and ends them. So processes are left only if both are killed at the
same time.

Linux only. It follows the process tree and compares no names. Standard library only,
because the keeper runs nothing but this file.
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

#: Signals that ask a program to end.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_POLL_SECONDS = 0.05

_SHOW_CURSOR = "\x1b[?25h"


def under_subreaper(work: Callable[[], int], *, grace_seconds: float = 20.0) -> int:
    """Run ``work`` in a new process, in which this call returns.

    Call it while the program has one thread, and exit with the returned code; the
    keeper exits with the same one.

    Args:
        work: SIGINT, SIGTERM, SIGHUP and SIGQUIT raise KeyboardInterrupt in it, each
            time.
        grace_seconds: processes left by ``work`` get SIGTERM, and after this time
            SIGKILL.

    Returns:
        The result of ``work``.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # kept over exec
    sys.stdout.flush()
    sys.stderr.flush()
    keeper = os.getpid()
    # Kept over fork and exec: signals wait until keeper and worker have their handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    if worker := os.fork():
        # Another process name, so that ending a program by name does not hit both.
        arguments = [str(worker), str(grace_seconds)]
        program = [sys.executable, "-I", "-S", __file__, *arguments]
        os.execv(sys.executable, program)  # noqa: S606 - our own file
    for number in _not_ignored():
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # A new session: signals to the whole process group, as sent by `timeout` and
    # terminals, must not hit both processes either.
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:  # the keeper ended before the prctl above
        return 128 + signal.SIGTERM
    return work()


def keep(worker: int, grace_seconds: float) -> int:
    """Wait for the worker, a child of this process, and end what it has left.

    Args:
        worker: process id.
        grace_seconds: see :func:`under_subreaper`.

    Returns:
        Exit code of the worker; 128 + signal number if a signal ended it.
    """

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(worker, number)

    for number in _not_ignored():
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    # Ctrl-Z would suspend only this process, while the worker keeps drawing.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    # Reap the worker only when no more signals are forwarded to its process id.
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None:
        if ended.si_pid == worker:
            break
        os.waitpid(ended.si_pid, 0)
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if sys.stdout.isatty():
            sys.stdout.write(f"{_SHOW_CURSOR}\n")
        name = signal.Signals(-code).name
        sys.stderr.write(f"meshtasks: killed by {name}; ending what was started\n")
    _end_orphans(grace_seconds)
    return 128 - code if code < 0 else code


def _not_ignored() -> list[signal.Signals]:
    """Return the ending signals that are not ignored.

    `nohup` ignores some, as do shells for background processes.
    """
    return [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _end_orphans(grace_seconds: float) -> None:
    """End all descendants. This process is their subreaper and inherits orphans."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace_seconds
    while _reap():
        tree = _children_by_parent()
        if time.monotonic() > deadline:
            for pid in _descendants(os.getpid(), tree):
                _send(pid, signal.SIGKILL)
        else:
            # Only direct children, and only once: they end their own children.
            for pid in set(tree[os.getpid()]) - asked:
                asked.add(pid)
                _send(pid, signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _reap() -> bool:
    """Reap children that have ended; return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _send(pid: int, number: int) -> None:
    # The id of a child stays valid until it is reaped; a grandchild may be gone.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _descendants(pid: int, tree: dict[int, list[int]]) -> Iterator[int]:
    for child in tree[pid]:
        yield child
        yield from _descendants(child, tree)


def _children_by_parent() -> dict[int, list[int]]:
    """Return all processes of the machine by parent (proc(5), /proc/pid/stat)."""
    tree: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The second field, the name in brackets, may contain any character.
                after_name = (entry / "stat").read_text().rpartition(")")[2]
                tree[int(after_name.split()[1])].append(int(entry.name))
    return tree


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), float(sys.argv[2])))
