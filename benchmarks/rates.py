"""What a measurement that is not a drained queue gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """One row of a table, in one round.

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
