"""Dead letters as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letters import DeadLetter, Group, history_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.replay import Replayed
from meshtasks.text import clip

_REASON_LIMIT_CHARS = 160
#: Told elsewhere on the page, or of no use to people.
_UNTOLD = headers.OF_A_FAILURE | {
    headers.EXCHANGE,
    headers.ROUTING_KEY,
    headers.QUEUE,
    headers.HISTORY,
    headers.REPLAYS,
    headers.REPLAYED_AT,
    # they count how often somebody looked
    "x-delivery-count",
    "x-acquired-count",
}


def overview(groups: list[Group], total: int, limit: int) -> Iterator[str]:
    """The groups, largest first."""
    if not total:
        yield "no dead letters"
        return
    letters = "dead letter" if total == 1 else "dead letters"
    yield f"{total:,} {letters}, by reason and queue"
    for group in groups[:limit]:
        example = group.example
        yield ""
        place = example.queue or _no_queue(example)
        yield f"{group.count:>9,}  {example.kind}   {place}"
        yield f"           {clip(example.reason, _REASON_LIMIT_CHARS)}"
        again = f" · {group.replayed:,} replayed before" if group.replayed else ""
        yield (
            f"           {_span(group)}{again} · for example {example.id} "
            f"{example.routing_key}"
        )
    if len(groups) > limit:
        rest = sum(group.count for group in groups[limit:])
        yield ""
        yield (
            f"{len(groups) - limit:,} more groups with {rest:,} letters "
            f"(--limit {len(groups)})"
        )


def group_as_json(group: Group) -> dict[str, Any]:
    """A group, for programs."""
    return {
        "count": group.count,
        "kind": group.example.kind,
        "queue": group.example.queue,
        "reason": group.example.reason,
        "first_failed_at": group.first_failed_at,
        "last_failed_at": group.last_failed_at,
        "replayed_before": group.replayed,
        "example": group.example.id,
    }


def one_line(letter: DeadLetter) -> str:
    """A letter, among others."""
    return (
        f"{letter.id}  {_time(letter.failed_at)}  {letter.kind:<18} "
        f"{letter.queue or _no_queue(letter)}  {letter.routing_key}  "
        f"{clip(letter.reason, _REASON_LIMIT_CHARS)}"
    )


def page(delivery: Delivery, letter: DeadLetter, alike: int) -> Iterator[str]:
    """Everything about one letter, its body last."""
    table, properties = delivery.headers, delivery.properties
    told = {
        "id": letter.id if alike == 1 else f"{letter.id} ({alike} letters are alike)",
        "died": _time(letter.failed_at),
        "of": letter.kind,
        "reason": letter.reason,
        "queue": letter.queue or _no_queue(letter),
        "exchange": letter.exchange or "(default)",
        "routing key": letter.routing_key,
        "sensor": letter.sensor or None,
        "message id": properties.get("message_id", "(none)"),
        "retries": table.get(headers.RETRIES),
        "task": table.get(headers.TASK_ID),
        "worker": table.get(headers.WORKER),
        "replays": letter.replays or None,
    }
    for name, value in told.items():
        if value is not None:
            yield f"{name:<12} {value}"
    for chapter in history_of(delivery):
        yield f"{'before':<12} {_chapter(chapter)}"
    others = {
        name: table[name] for name in sorted(table, key=str) if name not in _UNTOLD
    }
    if others:
        yield "headers"
        for name, value in others.items():
            yield f"  {name}: {value}"
    if traceback := str(table.get(headers.TRACEBACK) or "").strip():
        yield "traceback"
        yield from (f"  {line}" for line in traceback.splitlines())
    yield f"body ({len(delivery.body):,} bytes)"
    yield from (f"  {line}" for line in body_text(delivery.body).splitlines())


def body_text(body: bytes) -> str:
    """A body to read: JSON is laid out, and bytes that are no UTF-8 are spelled."""
    try:
        value = from_json(body, allow_inf_nan=False)
        return json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):  # Python also writes no number of 4,301 digits
        return body.decode("utf-8", "backslashreplace")


def outcome(result: Replayed, *, dry: bool) -> Iterator[str]:
    """What a replay did, or would do."""
    did = "would go back" if dry else "given back"
    yield f"{result.requeued.total():,} of {result.looked_at:,} letters {did}"
    for name, count in result.requeued.most_common():
        yield f"{count:>9,}  to {name}"
    for reason, count in result.kept.most_common():
        yield f"{count:>9,}  kept: {reason}"


def _span(group: Group) -> str:
    first, last = group.first_failed_at, group.last_failed_at
    if first == last:
        return _time(first)
    return f"{_time(first)} to {_time(last)}"


def _time(seconds: float | None) -> str:
    """Local time; UTC would be one more thing to think of on a bad evening."""
    if seconds is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def _no_queue(letter: DeadLetter) -> str:
    return f"(no queue; exchange {letter.exchange or 'default'})"


def _chapter(chapter: Mapping[str, Any]) -> str:
    edited = ", then edited" if chapter.get("edited") else ""
    return (
        f"{chapter.get('failed_at') or '?'} {chapter.get('kind')}: "
        f"{chapter.get('reason')} (replayed {chapter.get('replayed_at')}{edited})"
    )
