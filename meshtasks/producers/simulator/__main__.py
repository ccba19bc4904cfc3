"""``python -m meshtasks.producers simulator``."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from meshtasks.amqp.publisher import Publisher
from meshtasks.producers.__main__ import main
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Batching
from meshtasks.producers.session import Patience, broker_url, run_session
from meshtasks.producers.simulator.house import (
    DOMAINS,
    ROOMS,
    Domain,
    House,
    HouseOptions,
)
from meshtasks.producers.simulator.run import Confirmed, Pace, PacedFeed, RunSummary

_DAY_SECONDS = 86_400.0
_HISTORY_DAYS = 7


def simulator(  # noqa: PLR0913 (one parameter per option)
    context: typer.Context,
    *,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Messages per second.")
    ] = 200.0,
    for_seconds: Annotated[
        float | None,
        typer.Option("--for", min=0.001, metavar="SECONDS", help="End after so long."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many messages.")
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds that pass in the house per real second. A faster house "
            "starts in the past and ends in the present.",
        ),
    ] = 1.0,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The house's clock at the start, e.g. 2026-01-15T06:00:00Z. "
            f"Default: now, or with --speed above 1 so far back that the run ends "
            f"now ({_HISTORY_DAYS} days without --for and --count).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed and start: same messages.")] = 1,
    domain: Annotated[
        list[Domain] | None,
        typer.Option(
            metavar="NAME",
            help="Send messages of this domain only; may be given several times: "
            + ", ".join(Domain),
        ),
    ] = None,
    ask: Annotated[
        bool,
        typer.Option(help="Send requests to the sample model of config/triton, too."),
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
            help="Mean time between the faults (stuck, spike, dropout) of a sensor; "
            "0: none.",
        ),
    ] = 600.0,
    overheat: Annotated[
        str | None,
        typer.Option(
            metavar="ROOM",
            help="Let this room overheat after one second and every five minutes: "
            + ", ".join(room.name for room in ROOMS),
        ),
    ] = None,
    array: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pack N readings into a message.")
    ] = 1,
    stats_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the summary so far there (JSON), every second.",
        ),
    ] = None,
    connect_timeout: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="Give up on the broker after."),
    ] = 30.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="Wait so long for confirms at the end."
        ),
    ] = 10.0,
) -> None:
    """Publish the messages of a simulated house.

    Twelve rooms with thermometers and hygrometers of differing makes: °C, °F, K
    and %, with and without unit, id and timestamp, single and in arrays. Motion,
    Home Assistant's state changes and automations, metrics of hosts and services,
    requests to the sample model and results of a camera's own, alerts that begin
    and end. Now and then a sensor fails, and a message is bad in one of ten ways
    (named in its header x-simulated-fault). Its messages are worth nothing
    tomorrow: while the broker is away its house waits, and nothing is kept on disk.

    At the end one line of JSON on standard output counts what the broker has
    confirmed: good_records are to be stored, bad_records to be dead-lettered.

    Exit codes: 0 all confirmed, 1 no queue for some, 69 broker not reached, 75
    some not confirmed.
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
    confirmed = Confirmed()
    producer = Producer(
        Publisher(broker_url()),
        batching=Batching(array_size=array),
        on_confirmed=confirmed.add,
    )
    summary = RunSummary(house, producer, confirmed, stats_file)
    summary.write(finished=False)
    stop = context.ensure_object(threading.Event)
    exit_code = run_session(
        producer,
        PacedFeed(house, producer, pace, stop, summary.write_now_and_then),
        stop,
        Patience(connect_timeout, drain_timeout),
    )
    summary.write(finished=True)
    typer.echo(json.dumps(summary.summary(finished=True)))
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
    """Time that passes in the house during a sped-up run."""
    if pace.for_seconds is not None:
        return pace.for_seconds * speed
    if pace.count is not None:
        return pace.count / pace.rate_per_second * speed
    return _HISTORY_DAYS * _DAY_SECONDS


if __name__ == "__main__":
    main("simulator")
