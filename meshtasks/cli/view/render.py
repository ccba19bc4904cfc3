"""Draws a snapshot: for a terminal of any size, and as a line where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshtasks.cli.view.snapshot import (
    DeadLetter,
    QueueState,
    SeenAlert,
    Snapshot,
    WorkerState,
)

_SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
_LABEL = "bold"
_FAINT = "bright_black"
#: Lines that are always there: the queues' heads, retries, totals, the gaps.
_FIXED_LINES = 8
_THOUSAND = 1000
#: A worker that says nothing for so long is in trouble: it sends an event every two
#: seconds.
_SILENT_SECONDS = 10.0
#: At least so many dead letters and alerts are shown, and at most.
_FEWEST, _MOST = 2, 6


def draw(
    snapshot: Snapshot,
    *,
    title: str,
    published: str = "",
    footer: Sequence[tuple[str, str]] = (),
    width: int,
    height: int,
) -> RenderableType:
    """The whole view.

    Args:
        title: its first line.
        published: what producers say that they published, to stand with the totals.
        footer: label and text of the last lines.
        width: of the terminal, columns.
        height: of the terminal, lines; quiet queues and old news make room.
    """
    seen = snapshot.seen
    workers = [_worker(each, snapshot.taken_at) for each in seen.workers]
    faults = [Text(fault, "bold red") for fault in snapshot.faults]
    taken = _FIXED_LINES + len(footer) + len(faults) + max(1, len(workers))
    shown = _worth_showing(snapshot.queues, height - taken - 2 * _FEWEST)
    room = height - taken - len(shown)
    news = max(_FEWEST, min(_MOST, room // 2))
    lines: list[RenderableType] = [
        Text(title, "bold"),
        *faults,
        _queues(shown),
        _elsewhere(snapshot, shown),
        Text(),
        _totals(snapshot, published),
        Text(),
        _list("dead letters", map(_dead_letter, seen.last_dead_letters[-news:])),
        _list("alerts", map(_alert, seen.last_alerts[-news:])),
        _list("workers", workers),
        Text(),
        *(_list(label, [Text(text)]) for label, text in footer),
    ]
    for line in lines:
        if isinstance(line, Text):
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def line(snapshot: Snapshot, published: str = "") -> str:
    """The totals in one line, for a log."""
    parts = [_totals(snapshot, published).plain, f"{waiting(snapshot):,} waiting"]
    return " · ".join([*parts, *snapshot.faults])


def waiting(snapshot: Snapshot) -> int:
    """Messages that wait somewhere, dead letters not counted."""
    ready = sum(
        queue.ready + (queue.unacked or 0)
        for queue in snapshot.queues
        if queue.name != snapshot.dead_letter_queue
    )
    return ready + sum(snapshot.retry.values())


def size(size_bytes: float) -> str:
    """``1.2 MB``: powers of a thousand."""
    if size_bytes < _THOUSAND:
        return f"{size_bytes:.0f} bytes"
    units = ("kB", "MB", "GB", "TB")
    power = min(int(math.log(size_bytes, _THOUSAND)), len(units))
    return f"{size_bytes / _THOUSAND**power:.1f} {units[power - 1]}"


def _worth_showing(queues: Sequence[QueueState], room: int) -> list[QueueState]:
    """Busy queues first, then those that somebody consumes; in the given order."""
    rank = sorted(queues, key=lambda queue: (queue.is_quiet, not queue.consumers))
    wanted = [queue for queue in rank if queue.consumers or not queue.is_quiet]
    names = {queue.name for queue in wanted[: max(1, room)]}
    return [queue for queue in queues if queue.name in names]


def _queues(queues: Iterable[QueueState]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=_FAINT, pad_edge=False)
    table.add_column("queue", min_width=24, no_wrap=True)
    for head in ("ready", "unacked", "consumers", "in/s", "out/s"):
        table.add_column(head, justify="right", min_width=9, no_wrap=True)
    for queue in queues:
        table.add_row(
            queue.name,
            Text(f"{queue.ready:,}", _load_style(queue)),
            _number(queue.unacked),
            Text(f"{queue.consumers}", "" if queue.consumers else _FAINT),
            _number(queue.in_per_second),
            _number(queue.out_per_second),
        )
    return table


def _load_style(queue: QueueState) -> str:
    if not queue.ready:
        return _FAINT
    return "" if queue.consumers else "yellow"


def _number(value: float | None) -> Text:
    if value is None:
        return Text("?", _FAINT)
    return Text(f"{value:,.0f}", "" if value else _FAINT)


def _elsewhere(snapshot: Snapshot, shown: Sequence[QueueState]) -> Text:
    """The retry queues, and how many others are not shown."""
    waits = "   ".join(
        f"{_wait(seconds)}: {ready:,}" for seconds, ready in snapshot.retry.items()
    )
    text = Text(
        f"retry after   {waits}", "yellow" if any(snapshot.retry.values()) else _FAINT
    )
    if hidden := len(snapshot.queues) - len(shown):
        text.append(f"   ({hidden} more queues are quiet)", _FAINT)
    return text


def _wait(seconds: int) -> str:
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"


def _totals(snapshot: Snapshot, published: str) -> Text:
    seen = snapshot.seen
    parts = [published] if published else []
    if snapshot.points is not None:
        parts.append(f"stored {snapshot.points:,} points")
    parts.append(f"dead letters {seen.dead_letters:,}")
    if seen.dead_by_type:
        kinds = sorted(seen.dead_by_type.items(), key=lambda item: -item[1])
        parts[-1] += f" ({', '.join(f'{name} {count:,}' for name, count in kinds)})"
    if snapshot.archive is not None:
        archive = snapshot.archive
        parts.append(f"archive {archive.objects:,} objects, {size(archive.size_bytes)}")
    parts.append(f"alerts {seen.alerts:,}")
    return Text(" · ".join(parts))


def _list(label: str, items: Iterable[Text]) -> Table:
    """Lines with a label before the first."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=12, no_wrap=True, style=_LABEL)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for text in items:
        table.add_row(label, text)
        label = ""
    if not table.row_count:
        table.add_row(label, Text("none yet", _FAINT))
    return table


def _dead_letter(letter: DeadLetter) -> Text:
    return Text.assemble(
        (_clock(letter.seen_at), _FAINT),
        f" {letter.routing_key} ",
        (f"{letter.error_type}: {letter.reason}", "yellow"),
    )


def _alert(alert: SeenAlert) -> Text:
    news, style = alert.severity, _SEVERITY_STYLES.get(alert.severity, "")
    if alert.resolved:
        news, style = "resolved", "green"
    return Text.assemble(
        (_clock(alert.seen_at), _FAINT), " ", (news, style), f" {alert.message}"
    )


def _worker(worker: WorkerState, now: float) -> Text:
    text = Text(f"{worker.name}  ")
    silent_seconds = now - worker.heard_at
    if not worker.online:
        return text.append("stopped", "red")
    if silent_seconds > _SILENT_SECONDS:
        return text.append(f"silent for {silent_seconds:.0f} s", "bold red")
    batch = worker.last_batch
    if batch is None:
        return text.append("no batch yet", _FAINT)
    ago = max(0.0, now - batch.finished_at)
    text.append(f"{batch.queue}, {batch.result}", "yellow" if batch.failed else "")
    took = f" in {batch.runtime_seconds * 1000:.0f} ms" if batch.runtime_seconds else ""
    return text.append(f"{took}, {ago:.0f} s ago", _FAINT)


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%H:%M:%S}"
