"""Replaying a part of the archive, hour by hour."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import NamedTuple

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.cli.terminal import counting
from meshtasks.errors import SchemaMismatch, SinkRejected
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import (
    ArchivedRecord,
    Found,
    Period,
    content_of,
    read_line,
)
from meshtasks.flows.archive.replay import replayed

_BATCH = 500
_DAMAGED_LINE = "a line is damaged; meshtasks archive verify names its object"


class Way(NamedTuple):
    """Where a record goes.

    Attributes:
        name: what people are told: the exchange it came from, or the one queue.
        queues: the queues that get it.
    """

    name: str
    queues: tuple[str, ...]


class _Batch(NamedTuple):
    """Records that are sent together: their messages, and how many by where to."""

    messages: list[Outgoing]
    sent: Counter[str]


@dataclass(slots=True)
class Replayed:
    """What became of the records.

    Attributes:
        sent: confirmed, by where to.
        kept: not sent, by the reason.
        damaged: what is wrong with objects, none of whose records was sent, by name.
        hour: all records of the hours before it are sent.
    """

    sent: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)
    hour: datetime | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """What to replay, and how.

    Attributes:
        route: gives the way of a record, or why there is none.
        rate: records a second, at most.
        quiet: see :func:`~meshtasks.flows.archive.replay.replayed`.
        dry: count, and send nothing.
        stopping: ends it when it is set.
    """

    url: str
    store: ObjectStore
    period: Period
    route: Callable[[ArchivedRecord], Way | str]
    rate: float | None
    quiet: bool
    dry: bool
    stopping: Event

    def run(self, objects: list[Found], result: Replayed) -> None:
        """Send the records of these objects.

        Args:
            objects: in the order of their hours.
            result: is told how far it is.

        Raises:
            SinkUnavailable: the store cannot be read.
            Transient: the broker went away.
            Unroutable: a queue was deleted meanwhile.
        """
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 4)))
        with closing(Publisher(self.url)) as publisher, counting("replaying") as bar:
            for number, found in enumerate(objects):
                if self.stopping.is_set() or found.parsed is None:
                    return
                result.hour = found.parsed.hour
                for batch in self._batches(found.info.name, size, result):
                    self._send(publisher, batch, result)
                    if self.stopping.is_set():
                        return
                bar.update(number + 1, len(objects), f"{result.sent.total():,} records")

    def _batches(self, name: str, size: int, result: Replayed) -> Iterator[_Batch]:
        batch = _Batch([], Counter())
        try:
            lines = content_of(self.store, name).splitlines()
        except SinkRejected as error:
            result.damaged[name] = str(error)
            return
        for line in lines:
            try:
                record = read_line(line)
            except SchemaMismatch:
                result.kept[_DAMAGED_LINE] += 1
                continue
            if not self.period.start <= record.time < self.period.end:
                continue
            way = self.route(record)
            if isinstance(way, str):
                result.kept[way] += 1
                continue
            batch.sent[way.name] += 1
            batch.messages.extend(
                replayed(record, queue, quiet=self.quiet) for queue in way.queues
            )
            if len(batch.messages) >= size:
                yield batch
                batch = _Batch([], Counter())
        if batch.messages:
            yield batch

    def _send(self, publisher: Publisher, batch: _Batch, result: Replayed) -> None:
        began = time.monotonic()
        if not self.dry:
            publisher.publish(batch.messages)
        result.sent.update(batch.sent)
        if self.rate is not None and not self.dry:
            rest = batch.sent.total() / self.rate - (time.monotonic() - began)
            self.stopping.wait(max(0.0, rest))
