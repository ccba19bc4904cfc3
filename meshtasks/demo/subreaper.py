"""Run something that starts processes, and leave none of them behind.

The program becomes two processes. A new one does the work, in a session of its own.
The one that the shell knows becomes its keeper (this file, run as a program): it
passes on the signals it gets, and in the end kills whatever is left of what the
other one has started. If the keeper is killed (SIGKILL too), the kernel sends the
worker SIGTERM, and it ends in order; if the worker is killed, the keeper inherits its
orphans and ends them. So nothing is left unless both are killed at the same moment.

Linux only, and exact: it follows the tree of processes and compares no names.
Standard library only, since the keeper is nothing but this file.
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

#: Ask for an end.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_POLL_SECONDS = 0.05

_SHOW_CURSOR = "\x1b[?25h"


def under_subreaper(work: Callable[[], int], *, grace_seconds: float = 20.0) -> int:
    """Run ``work`` in a process of its own, which this call returns in.

    Call it while the program has one thread, and end the program with the exit
    code it returns; the keeper ends with the same one.

    Args:
        work: what to do; SIGINT, SIGTERM, SIGHUP and SIGQUIT each raise
            KeyboardInterrupt in it, every time.
        grace_seconds: what it leaves behind is asked to end (SIGTERM), and killed
            if it takes longer than this.

    Returns:
        What ``work`` returned.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # kept over exec
    sys.stdout.flush()
    sys.stderr.flush()
    keeper = os.getpid()
    if worker := os.fork():
        # A name of its own: who ends a program by its name must not hit both.
        arguments = [str(worker), str(grace_seconds)]
        program = [sys.executable, "-I", "-S", __file__, *arguments]
        os.execv(sys.executable, program)  # noqa: S606 - our own file
    for number in _not_ignored():
        signal.signal(number, _interrupt)
    # A session of its own: a signal to the whole process group, as `timeout` and
    # terminals send it, must not take both either.
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:  # it died before the kernel knew of our interest
        return 128 + signal.SIGTERM
    return work()


def keep(worker: int, grace_seconds: float) -> int:
    """Wait for the worker, a child of this process, and end what it has left.

    Args:
        grace_seconds: see :func:`under_subreaper`.

    Returns:
        Its exit code; 128 + the signal's number if a signal ended it.
    """

    def pass_on(number: int, _frame: FrameType | None) -> None:
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
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if sys.stdout.isatty():
            sys.stdout.write(f"{_SHOW_CURSOR}\n")
        name = signal.Signals(-code).name
        sys.stderr.write(f"meshtasks: killed by {name}; ending what was started\n")
    _end_orphans(grace_seconds)
    return 128 - code if code < 0 else code


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


def _end_orphans(grace_seconds: float) -> None:
    """End all descendants: as the nearest subreaper, this process inherits them."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace_seconds
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


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), float(sys.argv[2])))
