"""``meshtasks doctor``: check everything that the mesh needs."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from urllib3.exceptions import HTTPError

from meshtasks.amqp.management import urls
from meshtasks.amqp.queues import QUEUES
from meshtasks.cli.config import findings
from meshtasks.cli.terminal import AsJson, ManagementUrl, say, tell_place
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import MeshError, told
from meshtasks.flows.diagnosis import Check, Verdict, disk, probe, size_text
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import TIMESERIES, Sinks
from meshtasks.flows.timeseries import DOCTORS_MEASUREMENT
from meshtasks.flows.timeseries_queries import retention_of, victoriametrics_state
from meshtasks.http import cause_of, pool_manager, request
from meshtasks.observation import broker_checks
from meshtasks.state.database import Database, StateLocation
from meshtasks.text import masked, printable

_ANSWER_SECONDS = 5.0
_SKEW_SECONDS = 5.0

_MARKS = {
    "ok": ("ok     ", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED ", "bold red"),
    "skipped": ("skipped", "bright_black"),
}


def doctor(
    *,
    as_json: AsJson = False,
    management_url: ManagementUrl = None,
    within: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time limit; a check that takes longer has failed.",
        ),
    ] = 20.0,
) -> None:
    """Check everything that the mesh needs: configuration, broker, topology, sinks,
    webhooks, receivers, clocks, disks.

    All checks run at the same time. They change nothing, except that they write a point
    of the series meshtasks_doctor, and store, read and delete an object in the archive.
    Each fault is shown with its remedy.

    Exit codes: 0 no check has failed; 1 a check has failed; 78 bad environment
    variables.
    """
    settings = load_settings()
    # Raises an error if no broker is configured.
    tell_place(settings.env, "broker_url", "archive_url", "state_url")
    address = management_url or settings.env.management_url
    verdicts = examine(checks(settings, address), within)
    if as_json:
        rows = [{"check": name, **each._asdict()} for name, each in verdicts.items()]
        say(json.dumps(rows, indent=2))
    else:
        _print(verdicts)
    if any(verdict.state == "failed" for verdict in verdicts.values()):
        raise typer.Exit(1)


def examine(checks: Iterable[Check], within_seconds: float) -> dict[str, Verdict]:
    """Run all checks in parallel; a check that does not end in time has failed."""
    late = Verdict("failed", f"no answer within {within_seconds:g} s", "is it hanging?")
    verdicts: dict[str, Verdict] = {}

    def run(check: Check) -> None:
        try:
            verdict = check.run()
            _ = _MARKS[verdict.state]
        except (MeshError, OSError) as error:  # the service is unavailable or refuses
            remedy = "is it running, and is its MESH_… variable right?"
            verdict = Verdict("failed", str(error), remedy)
        except Exception as error:  # noqa: BLE001 - a foreign check may raise anything
            verdict = Verdict("failed", f"the check itself failed: {told(error)}")
        state, text, remedy = verdict
        verdicts[check.name] = Verdict(state, masked(f"{text}"), masked(f"{remedy}"))

    wanted = list(checks)
    threads = [
        # A daemon, so that the command can end while a check hangs.
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
    for check in wanted:  # report each cause once
        first = found.get(check.needs)
        if first and first.state == found[check.name].state == "failed":
            text = f"not checked: {check.needs} has failed"
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
            remedy = f"{'':<{width + 11}}→ {printable(verdict.remedy)}"
            console.print(remedy, markup=False)


def checks(settings: Settings, management_url: str | None) -> Iterator[Check]:
    """All checks. Each one can run without the others."""
    yield Check("configuration", partial(_configuration, settings))
    yield from broker_checks.checks(settings, management_url)
    yield Check("time series", partial(_timeseries, settings))
    yield Check("time series flags", partial(_flags, settings))
    for flow in load_flows().flows:
        for key in flow.sinks:
            yield Check(key.name.replace("_", " "), partial(probe, settings, key))
        yield from flow.checks(settings)
    for number, url in enumerate(urls(settings.env.amqp_url, management_url), 1):
        name = "clock and broker" if number == 1 else f"clock and broker {number}"
        yield Check(name, partial(clock, url))
    yield Check("clock and time series", partial(clock, settings.env.influx_url))
    location = StateLocation.of(settings.env)
    if location.is_shared:
        yield Check("clock and state", partial(_clock_of_state, location))
    yield Check("disk of state", partial(disk, settings.env.state_dir))
    yield Check("disk of spools", partial(_spools, settings))


def _configuration(settings: Settings) -> Verdict:
    levels = [each.level for each in findings(settings)]
    errors, warnings = levels.count("error"), levels.count("warning")
    text = f"{errors} errors, {warnings} warnings"
    remedy = "run: meshtasks config check"
    if errors:
        return Verdict("failed", text, remedy)
    return Verdict("warning", text, remedy) if warnings else Verdict("ok", text)


def _timeseries(settings: Settings) -> Verdict:
    """Write a point: a full store accepts empty writes, so only a real one counts."""
    point = f"{DOCTORS_MEASUREMENT} ok=1 {time.time() * 1000:.0f}"
    with closing(Sinks(settings)) as sinks:
        refused_lines = sinks[TIMESERIES].write([point])
    for reason in refused_lines.values():
        return Verdict("failed", reason, "see the store's own log")
    return Verdict("ok", f"a point was stored ({DOCTORS_MEASUREMENT})")


def _spools(settings: Settings) -> Verdict:
    """Check that the spools of this host's producers have room to reach their limit."""
    directory = settings.env.state_dir / "spool"
    spools = list(directory.glob("*.sqlite3"))
    if not spools:
        return Verdict("skipped", "no producer of this host has a spool")
    used = sum(spool.stat().st_size for spool in spools)
    wanted = max(0, settings.env.spool_bytes * len(spools) - used)
    verdict = disk(directory)
    if verdict.state == "ok" and shutil.disk_usage(directory).free < wanted:
        text = f"{verdict.text}; spools may grow by {size_text(wanted)}"
        return Verdict("warning", text, "free disk space, or lower MESH_SPOOL_BYTES")
    return verdict


def _flags(settings: Settings) -> Verdict:
    """Check that the store keeps every point, and keeps repeated points once."""
    state = victoriametrics_state(settings.env.influx_url)
    if state is None:
        kept = retention_of(settings.env, None)
        if kept is None:
            text = "the store is no VictoriaMetrics, or does not say"
            return Verdict("skipped", text)
        text = f"the bucket keeps {kept.days:.0f} days; older points are dead letters"
        if kept.seconds < settings.read(QUEUES).defaults.retry.max_age_seconds:
            remedy = "a longer outage than that loses points: raise its retention"
            return Verdict("warning", text, remedy)
        return Verdict("ok", text)
    if faults := list(state.faults()):
        texts, flags = zip(*(each.split(": set ") for each in faults), strict=True)
        return Verdict("warning", "; ".join(texts), f"set {', '.join(flags)}")
    restart = state.restart(time.time())
    text = f"-retentionPeriod={state.flags['retentionPeriod']}"
    return Verdict("ok", f"{text}; {restart}" if restart else text)


def clock(url: str) -> Verdict:
    """Compare the clock with the ``Date`` of an HTTP response, in whole seconds."""
    host, before = urlsplit(url).netloc, time.time()
    try:
        with pool_manager() as pool:
            answer = request(pool, "GET", url, timeout_seconds=_ANSWER_SECONDS)
    except HTTPError as error:
        return Verdict("skipped", f"{host} does not answer: {cause_of(error)}")
    if not (date := answer.headers.get("Date")):
        return Verdict("skipped", f"{host} does not tell its time")
    now = (before + time.time()) / 2
    skew_seconds = parsedate_to_datetime(date).timestamp() + 0.5 - now
    return _skew(host, skew_seconds)


def _clock_of_state(location: StateLocation) -> Verdict:
    """Compare the clock with that of the state, which rules and alerts use."""
    with closing(Database("state", location, "state.sqlite")) as state:
        return _skew(str(location), state.now() - time.time())


def _skew(place: str, seconds: float) -> Verdict:
    if abs(seconds) > _SKEW_SECONDS:
        remedy = "have both hosts use NTP (timedatectl set-ntp 1)"
        return Verdict("failed", f"{place} differs by {seconds:+.0f} s", remedy)
    return Verdict("ok", f"within {_SKEW_SECONDS:.0f} s")
