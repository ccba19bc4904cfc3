"""Renders a snapshot: for a terminal of any size, or as one line for a log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import ConsoleDimensions, Group
from rich.table import Table
from rich.text import Text

from meshtasks.observation.collect import QueueState, Snapshot
from meshtasks.observation.seen import Seen, SeenAlert, WorkerState
from meshtasks.text import printable

_SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
_LABEL_COLUMNS = 14
_FAINT = "bright_black"
#: Lines that are always shown: title, heads, retries, totals, kinds of faults, gaps.
_FIXED_LINES = 8
_THOUSAND = 1000
#: A worker without events for this time is marked; it sends one every two seconds.
_SILENT_SECONDS = 10.0
#: Limits of the number of dead letters and alerts shown.
_FEWEST, _MOST = 3, 6


def draw(
    snapshot: Snapshot,
    *,
    title: str,
    verdict: Sequence[str] | None = None,
    watched: bool = True,
    published: str = "",
    footer: Sequence[tuple[str, str]] = (),
    terminal: ConsoleDimensions,
) -> Group:
    """Return the whole view.

    Args:
        title: first line.
        verdict: problems, shown below the title; empty shows that all is well, None
            shows the snapshot's faults instead.
        watched: whether dead letters, alerts and workers were observed.
        published: text about what producers published, shown with the totals.
        footer: label and text of the last lines.
        terminal: its columns and lines; in a small one, unused queues and older events
            are left out.
    """
    width, height = terminal
    seen = snapshot.seen
    workers = [_worker(each, snapshot.taken_at) for each in seen.workers]
    faults = list(_verdict(snapshot.faults, verdict))
    taken = _FIXED_LINES + len(footer) + len(faults) + max(1, len(workers))
    shown = _worth_showing(snapshot, height - taken - 2 * _FEWEST)
    room = height - taken - len(shown)
    news = max(_FEWEST, min(_MOST, room // 2))
    above = [Text(title, "bold"), *faults]
    passed_by = [
        *_labelled("dead letters", _dead_letters(seen, news)),
        *_labelled("alerts", map(_alert, seen.last_alerts[-news:])),
        *_labelled("workers", workers),
        Text(),
    ]
    below = [
        _elsewhere(snapshot, shown),
        Text(),
        _totals(snapshot, published, watched=watched),
        Text(),
        *(passed_by if watched else ()),
        *(
            row
            for label, text in footer
            for row in _labelled(label, [Text(printable(text))])
        ),
    ]
    for text in (*above, *below):
        text.no_wrap = True
        text.truncate(width, overflow="ellipsis")
    return Group(*above, _queues(shown), *below)


def line(snapshot: Snapshot, published: str = "") -> str:
    """Return the totals in one line, for a log."""
    parts = [
        _totals(snapshot, published).plain,
        f"dead letters {_dead_totals(snapshot.seen)}",
        f"waiting {waiting(snapshot):,}",
    ]
    return " · ".join([*parts, *snapshot.faults])


def waiting(snapshot: Snapshot) -> int:
    """Return the number of waiting messages, without dead letters."""
    ready = sum(
        queue.ready + (queue.unacked or 0)
        for queue in snapshot.queues
        if queue.name != snapshot.dead_letter_queue
    )
    return ready + sum(snapshot.retry.values())


def size(size_bytes: float) -> str:
    """Return a size with its unit, in powers of a thousand: ``1.2 MB``."""
    if size_bytes < _THOUSAND:
        return f"{size_bytes:.0f} bytes"
    units = ("kB", "MB", "GB", "TB")
    power = min(int(math.log(size_bytes, _THOUSAND)), len(units))
    return f"{size_bytes / _THOUSAND**power:.1f} {units[power - 1]}"


def _verdict(faults: Sequence[str], verdict: Sequence[str] | None) -> Iterator[Text]:
    if verdict is None:
        yield from (Text(printable(fault), "bold red") for fault in faults)
    elif not verdict:
        yield Text("All is well", "bold green")
    else:
        number = f"{len(verdict)} things want" if len(verdict) > 1 else "1 thing wants"
        yield Text(f"{number} attention", "bold red")
        yield from (Text(f"  {printable(each)}", "red") for each in verdict)


def _worth_showing(snapshot: Snapshot, room: int) -> list[QueueState]:
    """Return the most important queues, in the given order.

    Queues with messages and no consumer have priority, then used queues, then queues
    with a consumer.
    """
    queues = snapshot.queues
    rank = sorted(
        queues,
        key=lambda queue: (
            not snapshot.is_waiting(queue),
            queue.is_unused,
            not queue.consumers,
        ),
    )
    wanted = [queue for queue in rank if queue.consumers or not queue.is_unused]
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
    """Return the line of the retry queues, with the number of hidden queues."""
    waits = "   ".join(
        f"{_wait(seconds)}: {ready:,}" for seconds, ready in snapshot.retry.items()
    )
    text = Text(
        f"retry after   {waits}", "yellow" if any(snapshot.retry.values()) else _FAINT
    )
    if hidden := len(snapshot.queues) - len(shown):
        text.append(f"   ({hidden} more not shown)", _FAINT)
    return text


def _wait(seconds: int) -> str:
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"


def _totals(snapshot: Snapshot, published: str, *, watched: bool = True) -> Text:
    parts = [published] if published else []
    if snapshot.points is not None:
        parts.append(f"stored {snapshot.points:,} values")
    if (archive := snapshot.archive) is not None:
        noun = "object" if archive.objects == 1 else "objects"
        parts.append(f"archive {archive.objects:,} {noun}, {size(archive.size_bytes)}")
    if watched:
        parts.append(f"alerts {snapshot.seen.alerts:,}")
    return Text(" · ".join(parts))


def _labelled(label: str, items: Iterable[Text]) -> Iterator[Text]:
    """Yield lines, with a label in front of the first."""
    head = f"{label:<{_LABEL_COLUMNS}}"
    rows = list(items) or [Text("none yet", _FAINT)]
    for number, text in enumerate(rows):
        yield Text.assemble((head if number == 0 else " " * len(head), "bold"), text)


def _dead_letters(seen: Seen, most: int) -> Iterator[Text]:
    """Yield the number of dead letters by type, and the last ones."""
    if seen.dead_by_type:
        yield Text(_dead_totals(seen), "yellow")
    for dead in seen.last_dead_letters[-most:]:
        told = printable(f" {dead.routing_key}  {dead.reason}")
        yield Text.assemble((_clock(dead.seen_at), _FAINT), told)


def _dead_totals(seen: Seen) -> str:
    if not seen.dead_letters:
        return "0"
    kinds = sorted(seen.dead_by_type.items(), key=lambda item: -item[1])
    counts = (f"{name} {count:,}" for name, count in kinds)
    return printable(f"{seen.dead_letters:,}: {' · '.join(counts)}")


def _alert(alert: SeenAlert) -> Text:
    news, style = alert.severity, _SEVERITY_STYLES.get(alert.severity, "")
    if alert.resolved:
        news, style = "resolved", "green"
    return Text.assemble(
        (_clock(alert.seen_at), _FAINT),
        " ",
        (news, style),
        f" {printable(alert.title if alert.resolved else alert.message)}",
    )


def _worker(worker: WorkerState, now: float) -> Text:
    text = Text(f"{printable(worker.name)}  ")
    silent_seconds = now - worker.heard_at
    if not worker.online:
        return text.append("stopped", "red")
    if silent_seconds > _SILENT_SECONDS:
        return text.append(f"silent for {silent_seconds:.0f} s", "bold red")
    batch = worker.last_batch
    if batch is None:
        return text.append("no batch yet", _FAINT)
    ago = max(0.0, now - batch.finished_at)
    text.append(f"{ago:.0f} s ago  ", _FAINT)
    text.append(
        printable(f"{batch.queue}  {batch.result}"), "yellow" if batch.failed else ""
    )
    took = f" in {batch.runtime_seconds * 1000:.0f} ms" if batch.runtime_seconds else ""
    return text.append(took, _FAINT)


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%H:%M:%S}"
