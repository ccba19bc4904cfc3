"""``python -m meshtasks.producers simulator``."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.private_files import replace_private
from meshtasks.producers.__main__ import main
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Batching, Pending
from meshtasks.producers.session import Patience, broker_url, run_session
from meshtasks.producers.simulator.badmessages import (
    LABEL_HEADER,
    BadKind,
    domain_kind_of,
)
from meshtasks.producers.simulator.house import (
    DOMAINS,
    ROOMS,
    Domain,
    House,
    HouseOptions,
    SimulatedMessage,
)

_DAY_SECONDS = 86_400.0
_HISTORY_DAYS = 7
#: Longest wait before checking for a stop and for the file to be written.
_LONGEST_WAIT_SECONDS = 0.25
_WRITE_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed and end of a run.

    Attributes:
        rate_per_second: messages per second.
        for_seconds: length of the run; None for no limit.
        count: number of messages; None for no limit.
        until_present: whether to end when the house's clock reaches the real time.
    """

    rate_per_second: float
    for_seconds: float | None = None
    count: int | None = None
    until_present: bool = False


class Run:
    """Publishes the messages of a house and counts what the broker confirms.

    A demo or test compares the counts with what was stored.

    Args:
        path: file for the summary; None for no file.

    Raises:
        ConfigError: as :func:`~meshtasks.producers.session.broker_url`.
    """

    def __init__(
        self,
        house: House,
        pace: Pace,
        batching: Batching,
        stop: threading.Event,
        path: Path | None,
    ) -> None:
        self._house = house
        self._pace = pace
        self._stop = stop
        self._path = path
        self._began = self._written_at = time.monotonic()
        self._lock = threading.Lock()
        self._messages: Counter[str] = Counter()
        self._bad_messages: Counter[str] = Counter()
        self._good_records: Counter[str] = Counter()
        self._bad_records: Counter[str] = Counter()
        self.producer = Producer(
            Publisher(broker_url()), batching=batching, on_confirmed=self._count
        )

    def feed(self) -> None:
        """Submit messages until the pace's end or a stop."""
        began = time.monotonic()
        for number, message in enumerate(self._house.messages()):
            due_seconds = number / self._pace.rate_per_second
            spent_seconds = max(due_seconds, time.monotonic() - began)
            if self._is_over(number, spent_seconds, message.timestamp):
                return
            body = message.body
            if not self._wait_until(began + due_seconds):
                return
            # Real sensors cannot wait. The simulator does, because dropped messages
            # would spoil its counts.
            while not self.producer.wait_for_room(len(body), _LONGEST_WAIT_SECONDS):
                if self._stop.is_set():
                    return
                self._write_now_and_then()
            self._submit(message, body)

    def write(self, *, finished: bool) -> None:
        """Write the summary to the file, if there is one.

        Args:
            finished: whether the run has ended.

        Raises:
            typer.Exit: the file cannot be written.
        """
        self._written_at = time.monotonic()
        if self._path is None:
            return
        try:
            text = json.dumps(self.summary(finished=finished)) + "\n"
            replace_private(self._path, text)
        except OSError as error:
            typer.echo(f"cannot write --stats-file: {error}", err=True)
            raise typer.Exit(os.EX_CANTCREAT) from error

    def summary(self, *, finished: bool) -> dict[str, object]:
        """Return the counts of confirmed records, of unpublished ones and of faults.

        Returns:
            Among others ``messages``; ``records`` = ``good_records`` (to be stored) +
            ``bad_records`` (to be dead-lettered); ``bad_messages`` by
            :class:`~meshtasks.producers.simulator.badmessages.BadKind`;
            ``messages_by_kind``, ``good_records_by_kind`` and ``bad_records_by_kind``
            by :func:`domain_kind_of`.
        """
        counts = self.producer.counts()
        with self._lock:
            good, bad = self._good_records.total(), self._bad_records.total()
            return {
                "messages": self._messages.total(),
                "records": good + bad,
                "good_records": good,
                "bad_records": bad,
                "bad_messages": dict(sorted(self._bad_messages.items())),
                "messages_by_kind": dict(sorted(self._messages.items())),
                "good_records_by_kind": dict(sorted(self._good_records.items())),
                "bad_records_by_kind": dict(sorted(self._bad_records.items())),
                "unconfirmed_records": counts.unresolved,
                "dropped_records": counts.dropped,
                "unroutable_records": counts.unroutable,
                "resent_messages": counts.resent,
                "sensor_faults": dict(sorted(self._house.faults.items())),
                "seed": self._house.options.seed,
                "elapsed_seconds": round(time.monotonic() - self._began, 3),
                "finished": finished,
            }

    def _is_over(self, number: int, spent_seconds: float, timestamp: float) -> bool:
        pace = self._pace
        return (
            number == pace.count
            or (pace.for_seconds is not None and spent_seconds >= pace.for_seconds)
            or (pace.until_present and timestamp > time.time())
        )

    def _wait_until(self, moment: float) -> bool:
        """Wait until a time of the monotonic clock; return false to stop instead."""
        while (remaining := moment - time.monotonic()) > 0:
            self._stop.wait(min(remaining, _LONGEST_WAIT_SECONDS))
            if self._stop.is_set():
                return False
            self._write_now_and_then()
        self._write_now_and_then()
        return not self._stop.is_set()

    def _submit(self, message: SimulatedMessage, body: bytes) -> None:
        route, timestamp = message[:2], message.timestamp
        if len(message.records) == 1:
            self.producer.submit(*route, *message.records, timestamp=timestamp)
            return
        outgoing = Outgoing(
            *route,
            body,
            timestamp=timestamp,
            headers={LABEL_HEADER: message.bad.value} if message.bad else None,
        )
        self.producer.submit_message(outgoing, records=message.record_count)

    def _count(self, batch: Sequence[Pending]) -> None:
        """Count confirmed messages; called in the producer's thread."""
        with self._lock:
            for message, records in batch:
                good = records
                domain_kind = domain_kind_of(message.routing_key)
                self._messages[domain_kind] += 1
                label = (message.headers or {}).get(LABEL_HEADER)
                if label is not None:
                    kind = BadKind(str(label))
                    self._bad_messages[kind] += 1
                    self._bad_records[domain_kind] += kind.bad_records
                    good = kind.good_records
                self._good_records[domain_kind] += good

    def _write_now_and_then(self) -> None:
        """Write the file if it is a second old."""
        if time.monotonic() - self._written_at >= _WRITE_INTERVAL_SECONDS:
            self.write(finished=False)


def simulator(  # noqa: PLR0913 (one parameter per option)
    context: typer.Context,
    *,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Messages per second.")
    ] = 200.0,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for", min=0.001, metavar="SECONDS", help="End after this time."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after this number of messages.")
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds of the house per real second. A faster house starts in the "
            "past and ends in the present.",
        ),
    ] = 1.0,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time of the house at the start, such as 2026-01-15T06:00:00Z. "
            "Default: now; with --speed above 1, the time from which the run ends "
            f"now ({_HISTORY_DAYS} days ago without --for and --count).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed; the same seed and start give the same messages.")
    ] = 1,
    domain: Annotated[
        list[Domain] | None,
        typer.Option(
            metavar="NAME",
            help="Publish only messages of this domain. Can be repeated: "
            + ", ".join(Domain),
        ),
    ] = None,
    ask: Annotated[
        bool,
        typer.Option(
            help="Publish requests to the sample model of config/triton, too."
        ),
    ] = True,
    bad_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of bad messages; 0.05 is one in twenty."
        ),
    ] = 0.005,
    fault_interval: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Mean time between faults (stuck, spike, dropout) of a sensor; 0 is "
            "none.",
        ),
    ] = 600.0,
    overheat: Annotated[
        str | None,
        typer.Option(
            metavar="ROOM",
            help="Overheat this room after one second and every five minutes: "
            + ", ".join(room.name for room in ROOMS),
        ),
    ] = None,
    array: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Publish N readings as one message with an array."
        ),
    ] = 1,
    stats_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the counts (JSON) to this file, every second.",
        ),
    ] = None,
    connect_timeout: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="Time to try to connect to the broker."
        ),
    ] = 30.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="Time to wait for confirms at the end."
        ),
    ] = 10.0,
) -> None:
    """Publish the messages of a simulated house.

    The house has twelve rooms, with thermometers and hygrometers of different makes:
    °C, °F, K and %, with and without unit, id and timestamp, single and in arrays. It
    also publishes motion, Home Assistant's state changes and automations, metrics of
    hosts and services, requests to the sample model, results of a camera's own model,
    and alerts that begin and end. Sometimes a sensor fails, or a message is bad in one
    of ten ways (named in its header x-simulated-fault). While the broker is
    unavailable, the house waits; nothing is kept on disk.

    At the end, the simulator prints one line of JSON on standard output: the counts
    that the broker has confirmed. good_records are stored by the mesh, bad_records are
    dead letters.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 69 the broker cannot be
    reached; 75 some not confirmed.
    """
    if overheat is not None and overheat not in {room.name for room in ROOMS}:
        message = f"there is no room {overheat}"
        raise typer.BadParameter(message, param_hint="--overheat")
    pace = Pace(rate, for_seconds, count, until_present=speed > 1.0)
    started = time.time() if start is None else _parsed(start)
    if start is None and speed > 1.0:
        started -= _history_seconds(pace, speed)
    house = House(
        HouseOptions(
            seed=seed,
            start_ms=int(started) * 1000,
            step_ms=1000.0 * speed / rate,
            bad_share=bad_share,
            fault_interval_seconds=fault_interval,
            overheating_room=overheat,
            to_be_packed=array > 1,
            domains=frozenset(domain or DOMAINS),
            with_requests=ask,
        )
    )
    stop = context.ensure_object(threading.Event)
    run = Run(house, pace, Batching(array_size=array), stop, stats_file)
    run.write(finished=False)
    patience = Patience(connect_timeout, drain_timeout)
    exit_code = run_session(run.producer, run.feed, stop, patience)
    run.write(finished=True)
    typer.echo(json.dumps(run.summary(finished=True)))
    raise typer.Exit(exit_code)


def _parsed(moment: str) -> float:
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start") from error
    if parsed.tzinfo is None:
        message = f"{moment} has no time zone; end it with Z for UTC"
        raise typer.BadParameter(message, param_hint="--start")
    return parsed.timestamp()


def _history_seconds(pace: Pace, speed: float) -> float:
    """Return how long the run is by the house's clock."""
    if pace.for_seconds is not None:
        return pace.for_seconds * speed
    if pace.count is not None:
        return pace.count / pace.rate_per_second * speed
    return _HISTORY_DAYS * _DAY_SECONDS


if __name__ == "__main__":
    main("simulator")
