"""Memory of a process and everything it has started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_rss_bytes(session: int) -> int:
    """Sum of the peak resident sets of all processes of a session.

    The kernel keeps the peak of each (``VmHWM``). What forked processes still
    share counts once for each of them, so the sum is an upper bound.

    Args:
        session: process id of the process that leads the session.
    """
    return sum(_peak_bytes(process) for process in _members(session))


def _members(session: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            # proc(5): the fourth field after the command's closing parenthesis
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield process


def _peak_bytes(process: Path) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        if found := _PEAK.search((process / "status").read_text()):
            return int(found[1]) * 1024
    return 0
