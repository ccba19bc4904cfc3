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

from benchmarks import contenders, hostile
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.drain import Run
from benchmarks.figures import Rate
from benchmarks.latency import Latency
from benchmarks.outage import Ledger
from benchmarks.sharing import Share

_MEGABYTE = 1_000_000

#: (row, other row, least ratio of their readings a second)
_LEAST_RATIOS = (
    (contenders.MESHTASKS, contenders.BARE, 0.8),
    (contenders.MESHTASKS, contenders.CELERY, 7.0),
    (contenders.ARRAYS, contenders.MESHTASKS, 8.0),
)
_MOST_GROWTH = 1.1

#: Titles of the tables of drained queues, by part.
_PARTS = {
    "throughput": "Readings a second by one worker process, median of the rounds",
    "metrics": "Metrics a second by one worker process, median of the rounds",
    "archive": "Archived records a second by one worker process, median of the rounds",
}
#: Titles of the other tables of rates.
_RATES = {
    "publishing": "Readings a second published by one process, median of the rounds",
    "inference": "Windows a second through a model that does nothing",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured.

    Attributes:
        throughput: runs of all rounds; of metrics and archive, too.
        backlog: the worker with few and with many messages waiting.
        latency: from publish to queryable, or to the alert.
        sharing: several workers on one queue in partitions, all rounds.
        rates: of publishing and inference, all rounds.
        outages: what became of readings while the broker was away.
        hostile: what became of readings beside hostile messages.
    """

    throughput: list[Run] = field(default_factory=list)
    backlog: list[Run] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    sharing: list[Share] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    outages: list[Ledger] = field(default_factory=list)
    hostile: list[hostile.Outcome] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What was lost or dead, and where; empty when every ledger balances."""
        runs = (*self.throughput, *self.backlog)
        found = [(run.contender, fault) for run in runs for fault in run.faults]
        found += [(each.what, fault) for each in self.latency for fault in each.faults]
        found += [(each.what, fault) for each in self.rates for fault in each.faults]
        found += [("sharing", fault) for each in self.sharing for fault in each.faults]
        found += [("outage", fault) for each in self.outages for fault in each.faults]
        found += [("hostile", fault) for each in self.hostile for fault in each.faults]
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
    yield from _throughput_targets(findings.throughput)
    yield from _rate_targets(findings.rates)
    if findings.backlog and not any(run.faults for run in findings.backlog):
        few, many = findings.backlog
        growth = many.peak_rss_bytes / few.peak_rss_bytes
        text = (
            f"peak memory with {many.messages:,} messages waiting at most "
            f"{_MOST_GROWTH:g} x that with {few.messages:,}"
        )
        yield Target(text, growth, growth <= _MOST_GROWTH)
    yield from _latency_targets(findings.latency)


def _throughput_targets(runs: Sequence[Run]) -> Iterator[Target]:
    rates = {
        row.contender.name: median(row.rates) for row in _rows(runs) if not row.faults
    }
    for who, whom, least in _LEAST_RATIOS:
        if who.name in rates and whom.name in rates:
            ratio = rates[who.name] / rates[whom.name]
            text = f"{who.name} at least {least:g} x {whom.name}"
            yield Target(text, ratio, ratio >= least)


def _rate_targets(rates: Sequence[Rate]) -> Iterator[Target]:
    for rows in _by_part(rates).values():
        for what, rounds in rows.items():
            wanted, ceiling = rounds[0].least, rounds[0].ceiling
            if wanted is not None and not any(each.faults for each in rounds):
                ratio = _median(rounds) / _median(rows[ceiling])
                text = f"{what} at least {wanted:g} x {ceiling}"
                yield Target(text, ratio, ratio >= wanted)


def _latency_targets(latencies: Sequence[Latency]) -> Iterator[Target]:
    for each in latencies:
        for share, found_ms, target_ms in (
            ("half", each.p50_ms, each.p50_target_ms),
            ("99 %", each.p99_ms, each.p99_target_ms),
        ):
            if target_ms is not None and not each.faults:
                text = f"{share} within {target_ms:g} ms: {each.what}"
                yield Target(text, found_ms, found_ms <= target_ms)


def show(console: Console, findings: Findings) -> None:
    """Print the tables, then a line for each target."""
    rows = _rows(findings.throughput)
    for part, title in _PARTS.items():
        if of_part := [row for row in rows if row.contender.part == part]:
            console.print(_throughput_table(title, of_part))
    for table in _tables(findings):
        console.print(table)
    for part, rates in _by_part(findings.rates).items():
        console.print(_rates_table(part, rates))
    for ledger in findings.outages:
        console.print(_outage_table(ledger))
    for each in findings.hostile:
        console.print(
            f"hostile: {each.good:,} good readings published, {each.stored:,} stored; "
            f"{each.hostile:,} hostile messages written, {each.hung_up:,} times the "
            f"broker hung up, {each.dead:,} dead letters; the worker and sensornet: "
            f"{', '.join(each.troubles) or 'no trouble'}",
            soft_wrap=True,
        )
    for fault in findings.faults:
        text = f"[red]the ledger does not balance:[/] {fault}"
        console.print(text, soft_wrap=True)
    for target in targets(findings):
        verdict = "[green]met[/]" if target.met else "[red]not met[/]"
        text = f"target: {target.text}: {target.value:.3g}, {verdict}"
        console.print(text, soft_wrap=True)


def _tables(findings: Findings) -> Iterator[Table]:
    if findings.backlog:
        yield _backlog_table(findings.backlog)
    if findings.latency:
        yield _latency_table(findings.latency)
    if findings.sharing:
        yield _sharing_table(findings.sharing)


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


def _throughput_table(title: str, rows: Sequence[_Row]) -> Table:
    table = _table(title)
    table.add_column("contender", no_wrap=True)
    medians = {row.contender.name: median(row.rates) for row in rows}
    celery = medians.get(contenders.CELERY.name)
    archive = any(run.kept.raw_bytes for row in rows for run in row.runs)
    headings = ["rate", "spread", "x bare", "CPU µs", "peak RSS"]
    headings += ["x Celery"] if celery else []
    headings += ["MB/s", "zstd"] if archive else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.faults:
            table.add_row(row.contender.title, "[red]invalid[/]")
            continue
        rate = medians[row.contender.name]
        spread = (max(row.rates) - min(row.rates)) / 2 / rate
        cells = [
            f"{rate:,.0f}",
            f"±{spread:.0%}",
            _ratio(rate, medians.get(row.contender.ceiling)),
            f"{median(run.cpu_us_per_reading for run in row.runs):.0f}",
            _megabytes(max(run.peak_rss_bytes for run in row.runs)),
        ]
        if celery:
            cells.append(_ratio(rate, celery))
        if archive and (kept := row.runs[-1].kept).raw_bytes:
            cells.append(f"{rate * kept.raw_bytes / kept.records / _MEGABYTE:.1f}")
            cells.append(f"{kept.raw_bytes / kept.stored_bytes:.1f} x")
        table.add_row(row.contender.title, *cells)
    return table


def _rates_table(part: str, rows: dict[str, list[Rate]]) -> Table:
    table = _table(_RATES[part])
    table.add_column("what")
    for heading in ("rate", "spread", "x ceiling"):
        table.add_column(heading, justify="right", no_wrap=True)
    for what, rates in rows.items():
        if any(each.faults for each in rates):
            table.add_row(what, "[red]invalid[/]")
            continue
        found = [each.per_second for each in rates]
        rate = median(found)
        spread = (max(found) - min(found)) / 2 / rate
        ceiling = rows.get(rates[0].ceiling)
        ratio = _ratio(rate, _median(ceiling) if ceiling else None)
        table.add_row(what, f"{rate:,.0f}", f"±{spread:.0%}", ratio)
    return table


def _outage_table(ledger: Ledger) -> Table:
    table = _table("A broker that is away, and a producer that is killed meanwhile")
    for heading in ("submitted", "stored", "lost", "duplicates", "points", "in order"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(
        f"{ledger.submitted:,}",
        f"{ledger.stored:,}",
        f"{ledger.missing:,}",
        f"{ledger.duplicates:,}",
        f"{ledger.points:,}",
        "yes" if ledger.in_order else "[red]no[/]",
    )
    return table


def _by_part(rates: Sequence[Rate]) -> dict[str, dict[str, list[Rate]]]:
    """All rounds of each row, by table."""
    parts: dict[str, dict[str, list[Rate]]] = {}
    for each in rates:
        parts.setdefault(each.part, {}).setdefault(each.what, []).append(each)
    return parts


def _median(rates: Sequence[Rate]) -> float:
    return median(each.per_second for each in rates)


def _backlog_table(runs: Sequence[Run]) -> Table:
    table = _table("Memory of the worker, its pool process included")
    for heading in ("messages waiting", "peak RSS", "readings/s"):
        table.add_column(heading, justify="right")
    for run in runs:
        rate = "[red]invalid[/]" if run.faults else f"{run.readings_per_second:,.0f}"
        table.add_row(f"{run.messages:,}", _megabytes(run.peak_rss_bytes), rate)
    return table


def _latency_table(latencies: Sequence[Latency]) -> Table:
    table = _table("Latency of the worker, from publish to queryable, or to the alert")
    table.add_column("stream")
    for heading in ("p50 ms", "p99 ms", "max ms", "CPU µs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in latencies:
        numbers = (each.p50_ms, each.p99_ms, each.max_ms, each.cpu_us)
        table.add_row(each.what, *(f"{number:.0f}" for number in numbers))
    return table


def _sharing_table(shares: Sequence[Share]) -> Table:
    table = _table("One queue in partitions: readings, medians of the rounds")
    table.add_column("workers")
    for heading in ("a second", "a second of theirs", "a second of the broker's"):
        table.add_column(heading, justify="right")
    for workers in sorted({each.workers for each in shares}):
        rounds = [each for each in shares if each.workers == workers]
        numbers = (
            median(each.readings / each.seconds for each in rounds),
            median(each.readings / each.worker_seconds for each in rounds),
            median(each.readings / each.broker_seconds for each in rounds),
        )
        table.add_row(str(workers), *(f"{number:,.0f}" for number in numbers))
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
