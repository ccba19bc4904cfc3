"""The summary of a run, printed at its end and kept in a file meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

from producers.base import Producer
from producers.files import write_atomically
from producers.simulator.house import House
from producers.simulator.ledger import Ledger

_WRITE_INTERVAL_SECONDS = 1.0


class Report:
    """Says what was published so far.

    Args:
        path: file to keep up to date; None for none.
    """

    def __init__(
        self, house: House, producer: Producer, ledger: Ledger, path: Path | None
    ) -> None:
        self._house = house
        self._producer = producer
        self._ledger = ledger
        self._path = path
        self._began = self._written_at = time.monotonic()

    def summary(self, *, finished: bool) -> dict[str, object]:
        """The ledger's books, what the broker did not take, and the faults."""
        counts = self._producer.counts()
        return {
            **self._ledger.summary(),
            "unconfirmed_records": counts.unsettled,
            "dropped_records": counts.dropped,
            "unroutable_records": counts.unroutable,
            "resent_messages": counts.resent,
            "sensor_faults": dict(sorted(self._house.faults.items())),
            "seed": self._house.options.seed,
            "elapsed_seconds": round(time.monotonic() - self._began, 3),
            "finished": finished,
        }

    def write_now_and_then(self) -> None:
        """Write the file, if it is a second old."""
        if time.monotonic() - self._written_at >= _WRITE_INTERVAL_SECONDS:
            self.write(finished=False)

    def write(self, *, finished: bool) -> None:
        """Write the file, if one is wanted.

        Raises:
            typer.Exit: it cannot be written.
        """
        self._written_at = time.monotonic()
        if self._path is None:
            return
        try:
            write_atomically(self._path, self.summary(finished=finished))
        except OSError as error:
            typer.echo(f"cannot write --stats-file: {error}", err=True)
            raise typer.Exit(os.EX_CANTCREAT) from error
