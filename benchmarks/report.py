"""What was measured becomes tables, targets that are met or not, and JSON."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.drain import Run
from benchmarks.latency import Latency

_MEGABYTE = 1_000_000

#: (row, other row, least ratio of their readings a second)
_LEAST_RATIOS = (
    (contenders.MESHTASKS, contenders.BARE, 0.8),
    (contenders.MESHTASKS, contenders.CELERY, 7.0),
    (contenders.ARRAYS, contenders.MESHTASKS, 8.0),
)
_MOST_GROWTH = 1.1


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured.

    Attributes:
        throughput: runs of all rounds.
        backlog: the worker with few and with many messages waiting.
        latency: from publish to queryable.
    """

    throughput: list[Run] = field(default_factory=list)
    backlog: list[Run] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What was lost or dead, and where; empty when every ledger balances."""
        runs = (*self.throughput, *self.backlog)
        found = [(run.contender, fault) for run in runs for fault in run.faults]
        found += [(each.what, fault) for each in self.latency for fault in each.faults]
        return [f"{where}: {fault}" for where, fault in found]


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached.

    Attributes:
        text: what, and how much.
        value: what was measured, in the unit of the text.
        met: whether that is enough.
    """

    text: str
    value: float
    met: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """All rounds of one contender."""

    contender: Contender
    runs: list[Run]

    @property
    def rates(self) -> list[float]:
        return [run.readings_per_second for run in self.runs]

    @property
    def faults(self) -> list[str]:
        return [fault for run in self.runs for fault in run.faults]


def targets(findings: Findings) -> Iterator[Target]:
    """The targets that the findings allow to judge."""
    rates = {
        row.contender.name: median(row.rates)
        for row in _rows(findings.throughput)
        if not row.faults
    }
    for who, whom, least in _LEAST_RATIOS:
        if who.name in rates and whom.name in rates:
            ratio = rates[who.name] / rates[whom.name]
            text = f"{who.name} at least {least:g} x {whom.name}"
            yield Target(text, ratio, ratio >= least)
    if findings.backlog and not any(run.faults for run in findings.backlog):
        few, many = findings.backlog
        growth = many.peak_rss_bytes / few.peak_rss_bytes
        text = (
            f"peak memory with {many.messages:,} messages waiting at most "
            f"{_MOST_GROWTH:g} x that with {few.messages:,}"
        )
        yield Target(text, growth, growth <= _MOST_GROWTH)
    for each in findings.latency:
        if each.target_ms is not None and not each.faults:
            text = f"99 % from {each.what} within {each.target_ms:g} ms"
            yield Target(text, each.p99_ms, each.p99_ms <= each.target_ms)


def show(console: Console, findings: Findings) -> None:
    """Print the tables, then a line for each target."""
    if findings.throughput:
        console.print(_throughput_table(_rows(findings.throughput)))
    if findings.backlog:
        console.print(_backlog_table(findings.backlog))
    if findings.latency:
        console.print(_latency_table(findings.latency))
    for fault in findings.faults:
        text = f"[red]the ledger does not balance:[/] {fault}"
        console.print(text, soft_wrap=True)
    for target in targets(findings):
        verdict = "[green]met[/]" if target.met else "[red]not met[/]"
        text = f"target: {target.text}: {target.value:.3g}, {verdict}"
        console.print(text, soft_wrap=True)


def as_json(findings: Findings) -> dict[str, Any]:
    """Every run, every target, and the machine."""
    return {
        "machine": _machine(),
        **asdict(findings),
        "targets": [asdict(target) for target in targets(findings)],
    }


def _rows(runs: Sequence[Run]) -> list[_Row]:
    """In the order of the contenders."""
    rows = (
        _Row(each, [run for run in runs if run.contender == each.name])
        for each in CONTENDERS
    )
    return [row for row in rows if row.runs]


def _throughput_table(rows: Sequence[_Row]) -> Table:
    table = _table("Readings a second by one worker process, median of the rounds")
    table.add_column("contender", no_wrap=True)
    headings = ("rate", "spread", "x bare", "x Celery", "CPU µs", "peak RSS")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    medians = {row.contender.name: median(row.rates) for row in rows}
    bare = medians.get(contenders.BARE.name)
    celery = medians.get(contenders.CELERY.name)
    for row in rows:
        if row.faults:
            table.add_row(row.contender.title, "[red]invalid[/]")
            continue
        rate = medians[row.contender.name]
        spread = (max(row.rates) - min(row.rates)) / 2 / rate
        table.add_row(
            row.contender.title,
            f"{rate:,.0f}",
            f"±{spread:.0%}",
            _ratio(rate, bare),
            _ratio(rate, celery),
            f"{median(run.cpu_us_per_reading for run in row.runs):.0f}",
            _megabytes(max(run.peak_rss_bytes for run in row.runs)),
        )
    return table


def _backlog_table(runs: Sequence[Run]) -> Table:
    table = _table("Memory of the worker, its pool process included")
    for heading in ("messages waiting", "peak RSS", "readings/s"):
        table.add_column(heading, justify="right")
    for run in runs:
        rate = "[red]invalid[/]" if run.faults else f"{run.readings_per_second:,.0f}"
        table.add_row(f"{run.messages:,}", _megabytes(run.peak_rss_bytes), rate)
    return table


def _latency_table(latencies: Sequence[Latency]) -> Table:
    table = _table("Latency of the worker at 500 messages a second")
    table.add_column("from")
    for heading in ("p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in latencies:
        numbers = (each.p50_ms, each.p99_ms, each.max_ms)
        table.add_row(each.what, *(f"{number:.0f}" for number in numbers))
    return table


def _table(title: str) -> Table:
    """A table that fits into 80 columns."""
    return Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _machine() -> dict[str, Any]:
    cores = os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": cores,
        "processor": next(_processors(), platform.machine()),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * pages,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processors() -> Iterator[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    for found in re.finditer(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
        yield found[1]


def _ratio(rate: float, other: float | None) -> str:
    return f"{rate / other:.2f}" if other else "-"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / _MEGABYTE:.0f} MB"
