"""What a contender has stored, counted where it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.services import Space
from meshtasks.flows.archive.objects import decompress


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found.

    Attributes:
        records: how many.
        raw_bytes: of the archive's lines.
        stored_bytes: of the archive's compressed objects.
    """

    records: int
    raw_bytes: int = 0
    stored_bytes: int = 0


def temperatures(space: Space) -> Kept:
    """Distinct points of readings in the time-series store."""
    return Kept(space.points())


def metrics(space: Space) -> Kept:
    """Distinct points of metrics in the time-series store."""
    return Kept(space.points("room_celsius"))


def archived(space: Space) -> Kept:
    """Lines in the archive, and what they take."""
    records = raw_bytes = stored_bytes = 0
    for path in sorted(space.archive.rglob("*.jsonl.zst")):
        content = path.read_bytes()
        lines = decompress(content)
        records += lines.count(b"\n")
        raw_bytes += len(lines)
        stored_bytes += len(content)
    return Kept(records, raw_bytes, stored_bytes)
