"""``meshtasks doctor``: check everything that the mesh needs."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import typer
from amqp.exceptions import NotFound
from rich.console import Console
from urllib3.exceptions import HTTPError

from meshtasks.amqp.accounts import OPERATOR, missing_rights
from meshtasks.amqp.connecting import AMQPS_PORT, connected, node_of, unopened
from meshtasks.amqp.drift import compare
from meshtasks.amqp.entities import queue_of
from meshtasks.amqp.management import LiveQueue, nodes, read, urls
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.cli.config import findings
from meshtasks.cli.terminal import ManagementUrl, say, tell_place
from meshtasks.config.certificates import ends_at, tls_fault
from meshtasks.config.settings import Settings, load_settings
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, MeshError, Transient, told
from meshtasks.flows.diagnosis import Check, Verdict, disk, probe, size_text
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import TIMESERIES, Sinks
from meshtasks.flows.timeseries import DOCTORS_MEASUREMENT
from meshtasks.flows.timeseries_queries import retention_of, victoriametrics_state
from meshtasks.http import cause_of, pool_manager, request
from meshtasks.observation.collect import ask_workers, circuit_lines
from meshtasks.state.database import Database, StateLocation
from meshtasks.text import masked, printable

_ANSWER_SECONDS = 5.0
_SKEW_SECONDS = 5.0
#: Default of RabbitMQ since 3.8.15, for queues without a policy or an argument.
_CONSUMER_TIMEOUT_SECONDS = 1_800.0
_GRACE_SECONDS = 60.0
_OLDEST_RABBITMQ = (3, 10)
#: Members of a new quorum queue, if there are as many nodes.
_MOST_MEMBERS = 3
#: `meshtasks secrets` renews a certificate when twice this time is left.
_SOON_SECONDS = 30 * 86_400.0
#: Less free space above the broker's limit is a warning; at the limit it blocks.
_LITTLE_FREE_BYTES = 1 << 30

_MARKS = {
    "ok": ("ok     ", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED ", "bold red"),
    "skipped": ("skipped", "bright_black"),
}


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
    yield Check("broker", partial(broker, settings))
    if settings.env.ca_file or "amqps://" in settings.env.amqp_url:
        yield Check("certificate", partial(certificate, settings))
    yield Check("permissions", partial(permissions, settings), "broker")
    for name, look in (
        ("broker alarms", alarms),
        ("topology", topology),
        ("consumer timeout", consumer_timeout),
        ("queue members", members),
    ):
        yield Check(name, partial(look, settings, management_url), "broker")
    yield Check("circuits", partial(circuits, settings.env.amqp_url), "broker")
    yield Check("pending points", partial(_pending, settings), "broker")
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


def circuits(amqp_url: str) -> Verdict:
    """Check the circuits of the workers: real work may fail where checks succeed."""
    answers = ask_workers(amqp_url)
    if lines := circuit_lines(answers):
        remedy = "put the sink right; its queues resume by themselves"
        return Verdict("failed", "; ".join(lines), remedy)
    if not answers:
        return Verdict("skipped", "no worker answers")
    return Verdict("ok", f"closed in {len(answers)} workers")


def _pending(settings: Settings) -> Verdict:
    """Check that no points wait for the store, and that a worker would write them."""
    try:
        with connected(settings.env.amqp_url) as connection:
            found = connection.channel().queue_declare(PENDING_TIMESERIES, passive=True)
    except NotFound:
        text = f"the broker has no queue {PENDING_TIMESERIES}"
        return Verdict("skipped", f"{text}: see topology")
    count, consumers = found.message_count, found.consumer_count
    waits = f"{count:,} messages of points wait for the time-series store"
    answers = ask_workers(settings.env.amqp_url)
    known = {queue for each in answers for queue in (*each.consuming, *each.resting)}
    if not consumers and PENDING_TIMESERIES not in known and (count or known):
        text = f"no worker consumes {PENDING_TIMESERIES}"
        remedy = "a worker of readings or metrics does, unless -X names the queue"
        return Verdict("warning", f"{waits}, and {text}" if count else text, remedy)
    if count:
        remedy = "they are written once it answers; see circuits"
        return Verdict("warning", waits, remedy)
    return Verdict("ok", "none waits")


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


def broker(settings: Settings) -> Verdict:
    """Check every node that MESH_BROKER_URL names."""
    found, faults = [], []
    for url in urls_of(settings.env.amqp_url):
        try:
            with connected(url) as connection:
                found.append(connection.connection.server_properties)
        except (Transient, ConfigError) as error:
            faults.append(error)
    if not found:
        raise faults[0]
    versions = {str(about.get("version", "")) for about in found}
    text = f"{found[0].get('product', 'unknown')} {', '.join(sorted(versions))}"
    oldest = min(tuple(map(int, re.findall(r"\d+", each)[:2])) for each in versions)
    if oldest < _OLDEST_RABBITMQ:
        return Verdict("failed", text, "upgrade RabbitMQ to 3.10 or newer")
    if faults:
        text += f"; {len(faults)} of {len(found) + len(faults)} nodes: {faults[0]}"
        return Verdict("warning", text, "start it, or put MESH_BROKER_URL right")
    return Verdict("ok", text if len(found) == 1 else f"{text} on {len(found)} nodes")


def certificate(settings: Settings) -> Verdict:
    """Check the certificate of the broker's node that expires first."""
    ends = []
    for node in map(node_of, urls_of(settings.env.amqp_url)):
        port = node.port if node.options["ssl"] else AMQPS_PORT
        try:
            ends.append((ends_at(node.host, port, _ANSWER_SECONDS), node.host))
        except ssl.SSLError as error:
            return Verdict("failed", f"{node.host}:{port}: {tls_fault(error)}")
        except OSError as error:
            text = f"no TLS at {node.host}:{port}: {error}"
            return Verdict("skipped", text, "it is the broker's, for other machines")
    at, host = min(ends)
    text = f"that of {host} is good until {time.strftime('%Y-%m-%d', time.gmtime(at))}"
    if at - time.time() > _SOON_SECONDS:
        return Verdict("ok", text)
    return Verdict("warning", text, "meshtasks certificates --renew, where it runs")


def members(settings: Settings, management_url: str | None) -> Verdict:
    """Check that each quorum queue has enough members, and that most of them run."""
    broker = settings.env.amqp_url
    try:
        names = [node.name for node in nodes(broker, management_url)]
    except ConfigError as error:
        return Verdict("skipped", str(error))
    if len(names) == 1:
        return Verdict("ok", "one node, and so one copy of each queue")
    ours = {queue.name for queue in settings.read(TOPOLOGY).all_queues}
    wanted = min(len(names), _MOST_MEMBERS)
    live = read(broker, management_url).queues
    queues = [queue for queue in live if queue.name in ours and queue.members]
    if stuck := [queue for queue in queues if queue.stands_still]:
        why = f"{stuck[0].stands_still}, so no message comes in or goes out"
        text = f"{stuck[0].name}{_and_more(stuck)}: {why}"
        remedy = "start the nodes that are away; on one in maintenance run: "
        return Verdict("failed", text, remedy + "rabbitmq-upgrade revive")
    few = [queue for queue in queues if len(queue.members) < wanted]
    if not few:
        return Verdict("ok", f"{wanted} of each queue, on {len(names)} nodes")
    members = len(few[0].members)
    text = f"{few[0].name}{_and_more(few)}: {members} of {wanted} members"
    vhost = re.escape(unopened(broker).virtual_host)
    grow = [
        f"rabbitmq-queues grow {name} all --vhost-pattern '^{vhost}$'"
        for name in names
        if any(name not in queue.members for queue in few)
    ]
    return Verdict("warning", text, "; ".join(grow[: wanted - members]))


def _and_more(queues: Sequence[LiveQueue]) -> str:
    return f" and {len(queues) - 1} more queues" if len(queues) > 1 else ""


def permissions(settings: Settings) -> Verdict:
    """Check that the account has the permissions that a worker needs."""
    if unopened(settings.env.amqp_url).userid == OPERATOR:
        return Verdict("skipped", "the operator declares nothing, and need not")
    if lines := missing_rights(settings.env.amqp_url, settings.read(TOPOLOGY)):
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        text = f"this account may not {lines[0]}{more}"
        remedy = "a worker's account must: rabbitmqctl set_permissions USER .* .* .*"
        return Verdict("warning", text, remedy)
    return Verdict("ok", "declares and publishes on every exchange")


def alarms(settings: Settings, management_url: str | None) -> Verdict:
    """Check whether a node refuses messages, or will do so soon."""
    try:
        found = nodes(settings.env.amqp_url, management_url)
    except ConfigError as error:
        remedy = "rabbitmqctl set_user_tags USER monitoring, so that it can be checked"
        return Verdict("warning", str(error), remedy)
    for node in found:
        if not node.running:
            return Verdict("failed", f"{node.name} is not running", "start it")
        if node.mem_alarm:
            text = f"{node.name} is short of memory and takes no messages"
            remedy = "let workers catch up, or raise vm_memory_high_watermark"
            return Verdict("failed", text, remedy)
        if node.disk_free_alarm:
            text = f"{node.name} has {size_text(node.disk_free)} of disk left"
            text += " and takes no messages"
            return Verdict("failed", text, "free disk space on the broker's host")
    least = min(found, key=lambda node: node.disk_free - node.disk_free_limit)
    text = f"none; {size_text(least.disk_free)} of disk free on {least.name}"
    if least.disk_free < least.disk_free_limit + _LITTLE_FREE_BYTES:
        text += f"; it takes no messages at {size_text(least.disk_free_limit)}"
        return Verdict("warning", text, "free disk space on the broker's host")
    return Verdict("ok", text)


def topology(settings: Settings, management_url: str | None) -> Verdict:
    """Check that the broker has everything in topology.yaml."""
    live = read(settings.env.amqp_url, management_url)
    drift = compare(settings.read(TOPOLOGY), live)
    if drift.differences:
        text = f"{len(drift.differences)} differences: {drift.differences[0]}, …"
        remedy = "meshtasks topology check names all, meshtasks topology apply adds"
        return Verdict("failed", text, remedy)
    return Verdict("ok", "as in topology.yaml")


def consumer_timeout(settings: Settings, management_url: str | None) -> Verdict:
    """Check that the broker's acknowledgement timeout is longer than a batch takes."""
    live = read(settings.env.amqp_url, management_url)
    for queue in live.queues:
        name = queue_of(queue.name)
        if name not in settings.read(TOPOLOGY).domain_queues:
            continue
        given = queue.effective_policy_definition.get(
            "consumer-timeout", queue.arguments.get("x-consumer-timeout")
        )
        seconds = _CONSUMER_TIMEOUT_SECONDS if given is None else given / 1_000
        limits = settings.read(QUEUES).for_queue(name)
        held = limits.time_limit_seconds + _GRACE_SECONDS + limits.batch.age_ms / 1_000
        if held <= seconds:
            continue
        text = f"{name}: batches may take {held:.0f} s, but the broker waits"
        text += f" {seconds:.0f} s for their acknowledgement"
        remedy = "lower time_limit_seconds in queues.yaml, or raise consumer_timeout"
        return Verdict("failed", text, remedy)
    return Verdict("ok", "longer than any batch may take, unless rabbitmq.conf says so")
