"""Figures that measurements give: rates, and what processes use of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Rate:
    """A measurement that is not a drained queue: one row of a table, in one round.

    Attributes:
        part: which table.
        what: what was measured.
        per_second: how much of it.
        ceiling: the row that it is compared with; empty for a ceiling itself.
        least: ratio to the ceiling that is to be reached; None where there is none.
        faults: why the ledger does not balance; empty when it does.
    """

    part: str
    what: str
    per_second: float
    ceiling: str = ""
    least: float | None = None
    faults: tuple[str, ...] = ()


class Usage(NamedTuple):
    """Sums over the processes of a session that are running.

    Attributes:
        cpu_seconds: processor time so far.
        peak_rss_bytes: peak resident sets, which the kernel keeps of each
            (``VmHWM``). What forked processes still share counts once for each
            of them, so the sum is an upper bound.
    """

    cpu_seconds: float
    peak_rss_bytes: int


def usage(session: int) -> Usage:
    """What a session has used.

    Args:
        session: process id of the process that leads the session.
    """
    parts = list(_members(session))
    return Usage(
        sum(part.cpu_seconds for part in parts),
        sum(part.peak_rss_bytes for part in parts),
    )


def _members(session: int) -> Iterator[Usage]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            # proc(5): what follows the command's closing parenthesis
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks = int(fields[11]) + int(fields[12])
                found = _PEAK.search((process / "status").read_text())
                peak_kib = int(found[1]) if found else 0  # none once it has ended
                yield Usage(ticks / _TICKS_PER_SECOND, peak_kib * 1024)
