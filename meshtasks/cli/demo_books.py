"""The books of a demo: what the sensors published, and where it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from meshtasks.cli.view.snapshot import Seen


class Published(BaseModel):
    """The simulator's own books: what the broker has confirmed.

    Attributes:
        good_records_by_kind: to be stored, by domain and kind.
        bad_records_by_kind: to be dead-lettered.
        unconfirmed_records: may or may not have arrived.
        resent_messages: published again after a lost connection.
    """

    messages: int = 0
    records: int = 0
    good_records_by_kind: dict[str, int] = {}
    bad_records_by_kind: dict[str, int] = {}
    unconfirmed_records: int = 0
    dropped_records: int = 0
    unroutable_records: int = 0
    resent_messages: int = 0


def published_so_far(stats_file: Path) -> Published:
    """What the simulator has noted in its file; nothing while there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return Published.model_validate_json(stats_file.read_bytes())
    except FileNotFoundError:
        return Published()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the time-series store has of the run.

    Attributes:
        by_kind: distinct points, by domain and kind.
        repeated: copies of some of them.
    """

    by_kind: Mapping[str, int]
    repeated: int


@dataclass(frozen=True, slots=True)
class Archived:
    """What the archive has of the run.

    Attributes:
        by_domain: distinct records, by the first word of their routing key.
        repeated: copies of some of them.
    """

    objects: int
    size_bytes: int
    by_domain: Mapping[str, int]
    repeated: int


@dataclass(frozen=True, slots=True)
class Row:
    """The books of one domain and kind; numbers of records."""

    kind: str
    good: int
    bad: int
    stored: int
    dead: int

    @property
    def published(self) -> int:
        """Good and bad."""
        return self.good + self.bad

    @property
    def difference(self) -> int:
        """Records that are neither stored nor dead-lettered; negative: too many."""
        return self.published - self.stored - self.dead

    @property
    def is_wrong(self) -> bool:
        """Good records are not all stored, or bad ones not all dead letters."""
        return self.stored != self.good or self.dead != self.bad


@dataclass(frozen=True, slots=True)
class Books:
    """All of it.

    Attributes:
        dead_in_queue: by how much the dead-letter queue has grown.
        waiting: messages still in the queues that should be empty.
    """

    published: Published
    stored: Stored
    seen: Seen
    archived: Archived
    dead_in_queue: int
    waiting: Mapping[str, int] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """One for each domain and kind."""
        good = self.published.good_records_by_kind
        bad = self.published.bad_records_by_kind
        stored, dead = self.stored.by_kind, self.seen.dead_by_kind
        return [
            Row(
                kind,
                good.get(kind, 0),
                bad.get(kind, 0),
                stored.get(kind, 0),
                dead.get(kind, 0),
            )
            for kind in sorted({*good, *bad, *stored, *dead})
        ]

    def total(self) -> Row:
        """The sum of the rows."""
        rows = self.rows()
        return Row(
            "all",
            sum(row.good for row in rows),
            sum(row.bad for row in rows),
            sum(row.stored for row in rows),
            sum(row.dead for row in rows),
        )

    def faults(self) -> list[str]:
        """Why they do not balance, as sentences; empty when they do."""
        published, seen = self.published, self.seen
        faults = [_sentence(row) for row in self.rows() if row.is_wrong]
        if not published.records:
            faults.append("nothing was published")
        if published.unconfirmed_records:
            faults.append(
                f"{published.unconfirmed_records} records were not confirmed by the "
                "broker; they may have arrived all the same"
            )
        if lost := published.dropped_records + published.unroutable_records:
            faults.append(f"{lost} records were never published")
        total = seen.dead_letters + seen.repeated_dead_letters
        if self.dead_in_queue != total:
            faults.append(
                f"the dead-letter queue has grown by {self.dead_in_queue}, and "
                f"{total} dead letters were seen"
            )
        faults += [
            f"{count} messages are left in {queue}"
            for queue, count in self.waiting.items()
        ]
        return faults


def _sentence(row: Row) -> str:
    text = (
        f"{row.kind}: {row.good} good records and {row.stored} points, {row.bad} bad "
        f"records and {row.dead} dead letters"
    )
    if row.difference < 0:
        text += "; did something else publish meanwhile?"
    return text
