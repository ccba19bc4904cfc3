"""The dead-letter queue on a terminal: selecting dead letters, and showing them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple

import typer
from typing_extensions import override

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letter_groups import Group, Selection
from meshtasks.amqp.dead_letters import (
    ID_DIGITS,
    DeadLetter,
    dead_letter_of,
    history_of,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import peek
from meshtasks.amqp.replay import Replayed
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    say,
    span_of,
    stopping_on_signals,
)
from meshtasks.config.settings import Settings
from meshtasks.records.json_text import body_text
from meshtasks.text import clip, did_you_mean

EXIT_NOT_FOUND = 1
_REASON_LIMIT_CHARS = 160
#: Headers that are not shown: they are elsewhere on the page, or useless to people.
_HIDDEN = headers.OF_A_FAILURE | {
    headers.EXCHANGE,
    headers.ROUTING_KEY,
    headers.QUEUE,
    headers.HISTORY,
    headers.REPLAYS,
    headers.REPLAYED_AT,
    # Each peek increases these.
    "x-delivery-count",
    "x-acquired-count",
}
#: Number of dead letters between two updates of the progress bar.
_STEP = 500
_ID = re.compile(rf"[0-9a-f]{{4,{ID_DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The options that select dead letters, as the user gave them."""

    reason: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Select by reason: a kind (SchemaMismatch), or part of the text.",
        ),
    ] = ""
    queue: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Select by the queue in which they failed; also sensors.*",
        ),
    ] = ""
    routing_key: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Select by routing key: a pattern as in a binding, such as "
            "sensors.*.attic.",
        ),
    ] = ""
    sensor: Annotated[
        str, typer.Option(metavar="NAME", help="Select by sensor; also attic-*")
    ] = ""
    older_than: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Select those that failed longer ago than this: 2h, 7d.",
        ),
    ] = ""
    newer_than: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Select those that failed more recently than this: 30m, 1d.",
        ),
    ] = ""

    def selection(self) -> Selection:
        """The selection that the options describe.

        Raises:
            typer.BadParameter: an option is invalid.
        """
        now = time.time()
        return Selection(
            reason=self.reason,
            queue=self.queue,
            routing_key=self.routing_key,
            sensor=self.sensor,
            failed_before=_ago(now, self.older_than, "--older-than"),
            failed_after=_ago(now, self.newer_than, "--newer-than"),
        )


@dataclass(frozen=True, kw_only=True)
class IdsOrFilters(Filters):
    """The ids and options that select dead letters for a command that acts on them."""

    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids of dead letters, or their beginnings."),
    ] = None
    every: Annotated[bool, typer.Option("--all", help="Select all dead letters.")] = (
        False
    )

    @override
    def selection(self) -> Selection:
        """The selection that ids and options describe.

        Raises:
            typer.BadParameter: an option is invalid, or there is none.
        """
        if not any(astuple(self)):
            message = (
                "which? Give ids, --reason, --queue, --routing-key, --sensor, "
                "--older-than, --newer-than or --all"
            )
            raise typer.BadParameter(message)
        return replace(super().selection(), ids=_ids(self.ids or ()))


class DeadLetterQueue(NamedTuple):
    """The dead-letter queue.

    Attributes:
        url: AMQP URL of the broker.
        name: name of the queue.
        stopping: event that ends a peek.
    """

    url: str
    name: str
    stopping: threading.Event

    def peek(self, what: str) -> Iterator[tuple[Delivery, DeadLetter]]:
        """Yield every dead letter, with a progress bar; ``what`` is its label.

        Raises:
            typer.Exit: the command was interrupted.
        """
        with (
            counting(what) as bar,
            peek(self.url, self.name, stopping=self.stopping) as held,
        ):
            for delivery in held:
                yield delivery, dead_letter_of(delivery)
                if held.seen % _STEP == 0:
                    bar.update(held.seen, held.total)
        self.exit_if_stopped()
        if held.missing:
            note = f"{held.missing:,} dead letters not seen: another client holds them"
            say(note, err=True)

    def exit_if_stopped(self, state: str = "nothing was changed") -> None:
        """End the command if it was interrupted; ``state`` says what was changed.

        Raises:
            typer.Exit: the command was interrupted.
        """
        if self.stopping.is_set():
            fail(f"interrupted; {state}", EXIT_INTERRUPTED)


class Found(NamedTuple):
    """A dead letter that was found by its id.

    Attributes:
        delivery: its delivery.
        letter: the dead letter.
        alike: number of dead letters with this id; they are identical.
    """

    delivery: Delivery
    letter: DeadLetter
    alike: int


@contextmanager
def opened(settings: Settings, queue: str = "") -> Iterator[DeadLetterQueue]:
    """The dead-letter queue of the mesh. During the block, Ctrl-C ends a peek cleanly.

    Args:
        settings: settings with the broker and the topology.
        queue: pattern of queues in which dead letters failed; a message is printed if
            there is no such queue.
    """
    names = [known.name for known in settings.read(TOPOLOGY).all_queues]
    if queue and not any(fnmatchcase(name, queue) for name in names):
        say(f"topology.yaml has no queue {queue}{did_you_mean(queue, names)}", err=True)
    with stopping_on_signals() as stopping:
        yield DeadLetterQueue(
            settings.env.amqp_url, settings.read(TOPOLOGY).dead_letter_queue, stopping
        )


def find(letters: DeadLetterQueue, beginnings: Sequence[str]) -> list[Found]:
    """The dead letters with these ids, or beginnings of ids.

    Raises:
        typer.Exit: an id does not exist, or a beginning fits several ids.
    """
    found: dict[str, Found] = {}
    wanted = Selection(ids=_ids(beginnings))

    for delivery, letter in letters.peek("looking for it"):
        if wanted.matches(letter):
            alike = found[letter.id].alike if letter.id in found else 0
            found[letter.id] = Found(delivery, letter, alike + 1)
    for beginning in beginnings:
        fitting = sorted(name for name in found if name.startswith(beginning))
        if not fitting:
            fail(
                f"no dead letter has an id that begins with {beginning} "
                "(meshtasks dlq list --each shows ids)",
                EXIT_NOT_FOUND,
            )
        if len(fitting) > 1:
            message = f"{beginning} could be {fitting[0]} or {fitting[1]}; give more"
            fail(message, EXIT_NOT_FOUND)
    return list(found.values())


def _ids(texts: Sequence[str]) -> frozenset[str]:
    for text in texts:
        if not _ID.fullmatch(text):
            message = (
                f"{text!r} is no id of a dead letter, nor the beginning of one "
                f"(4 to {ID_DIGITS} hex digits)"
            )
            raise typer.BadParameter(message, param_hint="ID")
    return frozenset(texts)


def _ago(now: float, span: str, option: str) -> float | None:
    return now - span_of(span, option) if span else None


def overview(groups: list[Group], total: int, limit: int) -> Iterator[str]:
    """The lines of an overview of groups, largest first."""
    if not total:
        yield "no dead letters"
        return
    letters = "dead letter" if total == 1 else "dead letters"
    yield f"{total:,} {letters}, by reason and queue"
    for group in groups[:limit]:
        example = group.example
        yield ""
        queue = example.queue or _no_queue(example)
        yield f"{group.count:>9,}  {example.kind}   {queue}"
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
            f"{len(groups) - limit:,} more groups with {rest:,} dead letters "
            f"(--limit {len(groups)})"
        )


def group_as_json(group: Group) -> dict[str, Any]:
    """A group as values for JSON."""
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
    """A dead letter as a line of a list."""
    return (
        f"{letter.id}  {_time(letter.failed_at)}  {letter.kind:<18} "
        f"{letter.queue or _no_queue(letter)}  {letter.routing_key}  "
        f"{clip(letter.reason, _REASON_LIMIT_CHARS)}"
    )


def page(delivery: Delivery, letter: DeadLetter, alike: int) -> Iterator[str]:
    """The lines about one dead letter; its body is last."""
    table, properties = delivery.headers, delivery.properties
    rows = {
        "id": letter.id if alike == 1 else f"{letter.id} ({alike} equal ones)",
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
    for name, value in rows.items():
        if value is not None:
            yield f"{name:<12} {value}"
    for entry in history_of(delivery):
        yield f"{'before':<12} {_history_line(entry)}"
    others = {
        name: table[name] for name in sorted(table, key=str) if name not in _HIDDEN
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


def outcome(result: Replayed, *, dry: bool) -> Iterator[str]:
    """Lines about the result of a replay, or of a dry run."""
    verb = "would be requeued" if dry else "requeued"
    yield f"{result.requeued.total():,} of {result.looked_at:,} dead letters {verb}"
    for name, count in result.requeued.most_common():
        yield f"{count:>9,}  to {name}"
    for reason, count in result.kept.most_common():
        yield f"{count:>9,}  kept: {reason}"
    for reason, count in result.failed_again.most_common():
        yield f"{count:>9,}  failed again: {clip(reason, _REASON_LIMIT_CHARS)}"


def _span(group: Group) -> str:
    first, last = group.first_failed_at, group.last_failed_at
    if first == last:
        return _time(first)
    return f"{_time(first)} to {_time(last)}"


def _time(seconds: float | None) -> str:
    """A time as text, in local time."""
    if seconds is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def _no_queue(letter: DeadLetter) -> str:
    return f"(no queue; exchange {letter.exchange or 'default'})"


def _history_line(entry: Mapping[str, Any]) -> str:
    edited = ", then edited" if entry.get("edited") else ""
    return (
        f"{entry.get('failed_at') or '?'} {entry.get('kind')}: "
        f"{entry.get('reason')} (replayed {entry.get('replayed_at')}{edited})"
    )
