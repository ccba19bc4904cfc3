"""``meshtasks doctor``: check everything that the mesh needs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from meshtasks.cli.terminal import say
from meshtasks.config.settings import load_settings
from meshtasks.masking import masked
from meshtasks.text import printable

if TYPE_CHECKING:
    from meshtasks.flows.diagnosis import Check, Verdict

_MARKS = {
    "ok": ("ok     ", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED ", "bold red"),
    "skipped": ("skipped", "bright_black"),
}
#: For a service that cannot be reached, or refuses.
_REMEDY = "is it running, and is its MESH_… variable right?"


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    management_url: Annotated[
        str | None,
        typer.Option(
            help="Where RabbitMQ's management pages are, if neither as "
            "MESH_MANAGEMENT_URL says nor on port 15672 of the broker's host. They "
            "get the account of MESH_BROKER_URL.",
            metavar="URL",
        ),
    ] = None,
    within: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="What takes longer has failed."),
    ] = 20.0,
) -> None:
    """Look at everything the mesh needs: configuration, broker, topology, sinks,
    webhooks, receivers, clocks, disks.

    All at the same time. Nothing is changed, but for a point of the series
    meshtasks_doctor, and an object that is stored in the archive, read and deleted.
    What is not well comes with what to do about it.

    Exit codes: 0 nothing has failed; 1 something has; 78 the environment cannot be
    used.
    """
    from meshtasks.cli.doctor_checks import checks  # noqa: PLC0415 - loads every sink

    settings = load_settings()
    _ = settings.env.amqp_url  # without it nothing can be looked at
    address = management_url or settings.env.management_url or None
    verdicts = examine(checks(settings, address), within)
    if as_json:
        say(
            json.dumps(
                [
                    {"check": name, **verdict._asdict()}
                    for name, verdict in verdicts.items()
                ],
                indent=2,
            )
        )
    else:
        _print(verdicts)
    if any(verdict.state == "failed" for verdict in verdicts.values()):
        raise typer.Exit(1)


def examine(checks: Iterable[Check], within_seconds: float) -> dict[str, Verdict]:
    """Run all checks at the same time; one that has not ended by then has failed."""
    from meshtasks.cli.doctor_checks import FAULTS  # noqa: PLC0415
    from meshtasks.flows.diagnosis import Verdict  # noqa: PLC0415

    late = Verdict("failed", f"no answer within {within_seconds:g} s", "is it hanging?")
    verdicts: dict[str, Verdict] = {}

    def run(check: Check) -> None:
        try:
            state, text, remedy = check.run()
        except FAULTS as error:
            state, text, remedy = "failed", str(error), _REMEDY
        verdicts[check.name] = Verdict(state, masked(text), masked(remedy))

    wanted = list(checks)
    threads = [
        # a daemon, because what hangs must not keep the command from ending
        threading.Thread(target=run, args=(check,), daemon=True)
        for check in wanted
    ]
    deadline = time.monotonic() + within_seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    done = dict(verdicts)
    found = {check.name: done.get(check.name, late) for check in wanted}
    for check in wanted:  # one cause is reported once
        first = found.get(check.needs)
        if first and first.state == found[check.name].state == "failed":
            text = f"cannot be looked at: {check.needs} has failed"
            found[check.name] = Verdict("failed", text, "")
    return found


def _print(verdicts: dict[str, Verdict]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(map(len, verdicts))
    for name, verdict in verdicts.items():
        mark, style = _MARKS[verdict.state]
        console.print(f"[{style}]{mark}[/]  {name:<{width}}  ", end="")
        console.print(printable(verdict.text), markup=False)
        if verdict.remedy:
            remedy = printable(verdict.remedy)
            console.print(f"{'':<{width + 11}}→ {remedy}", markup=False)
