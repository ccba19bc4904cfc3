"""The single checks of ``meshtasks doctor``: each says how something is, and if it is
not well, what to do."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from meshtasks.amqp.accounts import missing_rights
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.drift import compare
from meshtasks.amqp.management import default_url, nodes, read
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.config_findings import findings
from meshtasks.cli.status_workers import ask_workers, circuit_lines
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, MeshError, Transient
from meshtasks.flows import victoriametrics
from meshtasks.flows.alerts.handler import NOTIFIER
from meshtasks.flows.alerts.store import ALERT_STATE
from meshtasks.flows.archive.handler import JOURNAL
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.builtin import HANDLERS
from meshtasks.flows.inference.client import TRITON
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, SinkKey, Sinks
from meshtasks.flows.webhooks.client import WEBHOOK
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.flows.webhooks.workflows import WEBHOOK_LOG

#: RabbitMQ's own, since 3.8.15, unless a policy or an argument says otherwise.
_CONSUMER_TIMEOUT_SECONDS = 1_800.0
_GRACE_SECONDS = 60.0
_OLDEST_RABBITMQ = (3, 10)
_HTTP_SECONDS = 5.0
_SKEW_SECONDS = 5.0
_GIB = 1 << 30
_LEAST_FREE_BYTES, _LITTLE_FREE_BYTES = _GIB // 4, 2 * _GIB

State = Literal["ok", "warning", "failed", "skipped"]


class Verdict(NamedTuple):
    """How something is.

    Attributes:
        state: failed needs somebody; a warning may wait; skipped was not needed.
        text: what was found.
        remedy: what to do about it.
    """

    state: State
    text: str
    remedy: str = ""


class Check(NamedTuple):
    """One check.

    Attributes:
        run: raises our errors where it has nothing better to say.
        needs: a check that this one cannot do without.
    """

    name: str
    run: Callable[[], Verdict]
    needs: str = ""


def checks(settings: Settings, management_url: str | None) -> Iterator[Check]:
    """All checks; they do not depend on each other."""
    yield Check("configuration", partial(_configuration, settings))
    yield Check("broker", partial(_broker, settings))
    yield Check("permissions", partial(_permissions, settings), "broker")
    for name, look in (
        ("broker alarms", _alarms),
        ("topology", _topology),
        ("consumer timeout", _timeout),
    ):
        yield Check(name, partial(look, settings, management_url), "broker")
    yield Check("circuits", partial(circuits, settings.env.amqp_url), "broker")
    yield Check("time series", partial(_timeseries, settings))
    yield Check("time series flags", partial(_flags, settings))
    yield Check("archive", partial(_archive, settings))
    yield Check("journal", partial(_journal, settings))
    for key in (RULE_STATE, ALERT_STATE, WEBHOOK_LOG):
        yield Check(key.name.replace("_", " "), partial(_probe, settings, key))
    yield Check("triton", partial(_triton, settings))
    yield Check("webhooks", partial(_webhooks, settings))
    yield Check("receivers", partial(_receivers, settings))
    base = management_url or default_url(settings.env.broker_url.get_secret_value())
    yield Check("clock and broker", partial(clock, base))
    yield Check("clock and time series", partial(clock, settings.env.influx_url))
    yield Check("disk of state", partial(disk, settings.env.state_dir))
    scheme, _, place = settings.env.archive_url.partition("://")
    if scheme == "file":
        yield Check("disk of archive", partial(disk, Path(place)))


def _configuration(settings: Settings) -> Verdict:
    levels = [each.level for each in findings(settings)]
    errors, warnings = levels.count("error"), levels.count("warning")
    text = f"{errors} errors, {warnings} warnings"
    remedy = "run: meshtasks config check"
    if errors:
        return Verdict("failed", text, remedy)
    return Verdict("warning", text, remedy) if warnings else Verdict("ok", text)


def _broker(settings: Settings) -> Verdict:
    with connected(settings.env.amqp_url) as connection:
        about = connection.connection.server_properties
    version = str(about.get("version", ""))
    text = f"{about.get('product', 'unknown')} {version}"
    words = version.split(".")[:2]
    if tuple(int(word) for word in words if word.isdigit()) < _OLDEST_RABBITMQ:
        return Verdict("failed", text, "upgrade RabbitMQ to 3.10 or newer")
    return Verdict("ok", text)


def _permissions(settings: Settings) -> Verdict:
    lines = missing_rights(settings.env.amqp_url, settings.read(TOPOLOGY))
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        text = f"this account may not {lines[0]}{more}"
        remedy = "a worker's account must: rabbitmqctl set_permissions USER .* .* .*"
        return Verdict("warning", text, remedy)
    return Verdict("ok", "declares and publishes on every exchange")


def _alarms(settings: Settings, management_url: str | None) -> Verdict:
    try:
        found = nodes(settings.env.amqp_url, management_url)
    except ConfigError as error:
        remedy = "rabbitmqctl set_user_tags USER monitoring, to have it looked at"
        return Verdict("warning", str(error), remedy)
    for node in found:
        if not node.running:
            return Verdict("failed", f"{node.name} is not running", "start it")
        if node.mem_alarm:
            text = f"{node.name} is short of memory and takes no messages"
            remedy = "let workers catch up, or raise vm_memory_high_watermark"
            return Verdict("failed", text, remedy)
        if node.disk_free_alarm:
            text = f"{node.name} has {_size(node.disk_free)} of disk left"
            text += " and takes no messages"
            return Verdict("failed", text, "free disk space on the broker's host")
    free = min((node.disk_free for node in found), default=0)
    return Verdict("ok", f"none; {_size(free)} of disk free")


def _topology(settings: Settings, management_url: str | None) -> Verdict:
    live = read(settings.env.amqp_url, management_url)
    drift = compare(settings.read(TOPOLOGY), live)
    if drift.differences:
        text = f"{len(drift.differences)} differences: {drift.differences[0]}, …"
        remedy = "meshtasks topology check names all, meshtasks topology apply adds"
        return Verdict("failed", text, remedy)
    return Verdict("ok", "as in topology.yaml")


def _timeout(settings: Settings, management_url: str | None) -> Verdict:
    live = read(settings.env.amqp_url, management_url)
    for queue in live.queues:
        if queue.name not in settings.read(TOPOLOGY).domain_queues:
            continue
        given = queue.effective_policy_definition.get(
            "consumer-timeout", queue.arguments.get("x-consumer-timeout")
        )
        seconds = _CONSUMER_TIMEOUT_SECONDS if given is None else given / 1_000
        limits = settings.read(QUEUES).for_queue(queue.name)
        held = limits.time_limit_seconds + _GRACE_SECONDS + limits.batch.age_ms / 1_000
        if held > seconds:
            text = f"{queue.name}: batches may take {held:.0f} s, but the broker waits"
            text += f" {seconds:.0f} s for their acknowledgement"
            remedy = (
                "lower time_limit_seconds in queues.yaml, or raise consumer_timeout"
            )
            return Verdict("failed", text, remedy)
    return Verdict("ok", "longer than any batch may take, unless rabbitmq.conf says so")


def _probe(settings: Settings, sink: SinkKey[Any]) -> Verdict:
    with closing(Sinks(settings)) as sinks:
        sinks[sink].probe()
    return Verdict("ok", "answers")


def _timeseries(settings: Settings) -> Verdict:
    """Write a point: a store that is full answers an empty write all the same."""
    point = f"meshtasks_doctor ok=1 {time.time() * 1000:.0f}"
    with closing(Sinks(settings)) as sinks:
        refused_lines = sinks[TIMESERIES].write([point])
    for reason in refused_lines.values():
        return Verdict("failed", reason, "see the store's own log")
    return Verdict("ok", "a point was stored (meshtasks_doctor)")


def circuits(amqp_url: str) -> Verdict:
    """What the workers say of their sinks: they do the work itself, while a check may
    pass where the work fails."""
    answers = ask_workers(amqp_url)
    if lines := circuit_lines(answers):
        remedy = "put the sink right; its queues resume by themselves"
        return Verdict("failed", "; ".join(lines), remedy)
    if not answers:
        return Verdict("skipped", "no worker answers")
    return Verdict("ok", f"closed in {len(answers)} workers")


def _flags(settings: Settings) -> Verdict:
    """Whether a VictoriaMetrics keeps what it takes, once."""
    state = victoriametrics.look(settings.env.influx_url)
    if state is None:
        return Verdict("skipped", "the store is no VictoriaMetrics, or does not say")
    if faults := list(state.faults()):
        texts, flags = zip(*(each.split(": set ") for each in faults), strict=True)
        return Verdict("warning", "; ".join(texts), f"set {', '.join(flags)}")
    return Verdict("ok", f"-retentionPeriod={state.flags['retentionPeriod']}")


def _archive(settings: Settings) -> Verdict:
    name = f"doctor/{uuid.uuid4()}"
    with closing(Sinks(settings)) as sinks:
        store = sinks[OBJECTS]
        store.put(name, b"meshtasks doctor", {})
        found = store.get(name)
        store.delete(name)
    if found != b"meshtasks doctor":
        text = "an object that was stored reads differently"
        return Verdict("failed", text, "look into the object store")
    return Verdict("ok", "an object was stored, read and deleted")


def _journal(settings: Settings) -> Verdict:
    with closing(Sinks(settings)) as sinks:
        journal, store = sinks[JOURNAL], sinks[OBJECTS]
        journal.probe()
        damaged = [name for name in journal.damaged() if store.stat(name)]
    if damaged:
        text = f"{len(damaged)} damaged objects in the archive: {damaged[0]}, …"
        remedy = "meshtasks archive verify; their records were stored in other objects"
        return Verdict("warning", text, remedy)
    return Verdict("ok", "answers")


def _triton(settings: Settings) -> Verdict:
    try:
        return _probe(settings, TRITON)
    except Transient as error:
        users = [name for name, each in HANDLERS.items() if TRITON in each.sinks]
        remedy = f"start it, or do not consume {', '.join(users)}; MESH_TRITON_URL"
        return Verdict("warning", str(error), remedy)


def _webhooks(settings: Settings) -> Verdict:
    webhooks = [workflow.webhook for workflow in settings.read(WORKFLOWS).workflows]
    if not webhooks:
        return Verdict("skipped", "workflows.yaml names none")
    if any(webhook.is_path for webhook in webhooks):
        _probe(settings, WEBHOOK)
    places = {_place(each.url) for each in webhooks if not each.is_path}
    if away := [text for place in sorted(places) if (text := _away(*place))]:
        remedy = "start them, or correct the URLs in workflows.yaml"
        return Verdict("failed", "; ".join(away), remedy)
    return Verdict("ok", f"{len(webhooks)} workflows, their hosts answer")


def _receivers(settings: Settings) -> Verdict:
    urls = settings.env.receivers
    if not urls:
        text = "no receiver of alerts.yaml has a URL: alerts are told to nobody"
        return Verdict("warning", text, "set MESH_RECEIVERS__<NAME> to an Apprise URL")
    with closing(Sinks(settings)) as sinks:
        base_urls = sinks[NOTIFIER].base_urls()
        places = {name: _place(url) for name, url in base_urls.items()}
    away = [
        f"{name}: {text}" for name, place in places.items() if (text := _away(*place))
    ]
    if away:
        remedy = "start the service, or correct MESH_RECEIVERS__<NAME>"
        return Verdict("failed", "; ".join(away), remedy)
    unknown = len(urls) - len(places)
    rest = f", {unknown} cannot be asked without sending" if unknown else ""
    return Verdict("ok", f"{len(places)} answer{rest}")


def clock(url: str) -> Verdict:
    """Compare with the Date of an HTTP answer, which has whole seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    before = time.time()
    try:
        with opener.open(url, timeout=_HTTP_SECONDS) as answer:
            date = answer.headers.get("Date")
    except HTTPError as error:
        date = error.headers.get("Date")
        error.close()
    except OSError as error:
        return Verdict("skipped", f"{urlsplit(url).netloc} does not answer: {error}")
    if not date:
        return Verdict("skipped", f"{urlsplit(url).netloc} does not tell its time")
    now = (before + time.time()) / 2
    skew_seconds = parsedate_to_datetime(date).timestamp() + 0.5 - now
    if abs(skew_seconds) > _SKEW_SECONDS:
        text = f"{urlsplit(url).netloc} differs by {skew_seconds:+.0f} s"
        return Verdict(
            "failed", text, "have both hosts use NTP (timedatectl set-ntp 1)"
        )
    return Verdict("ok", f"within {_SKEW_SECONDS:.0f} s")


def disk(directory: Path) -> Verdict:
    """Whether a directory, perhaps not made yet, can be written and has room."""
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        return Verdict(
            "failed", f"{there} may not be written", f"chown it: {directory}"
        )
    free = shutil.disk_usage(there).free
    text = f"{_size(free)} free at {directory}"
    if free < _LEAST_FREE_BYTES:
        return Verdict("failed", text, "free disk space")
    return Verdict("warning" if free < _LITTLE_FREE_BYTES else "ok", text)


def _place(url: str) -> tuple[str, int, bool]:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls


def _away(host: str, port: int, tls: bool) -> str:  # noqa: FBT001 - of a place
    """Why nothing can be sent there; empty if a connection is taken, and its
    certificate believed."""
    try:
        with socket.create_connection((host, port), timeout=_HTTP_SECONDS) as plain:
            if tls:
                context = ssl.create_default_context()
                with context.wrap_socket(plain, server_hostname=host):
                    pass
            return ""
    except ssl.SSLError as error:
        return (
            f"{host}:{port}: its certificate is not believed, or it speaks no TLS: "
            f"{error}; an authority of your own is named in MESH_CA_FILE"
        )
    except OSError as error:
        return f"{host}:{port} cannot be reached: {error}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f} GiB"


#: What a check may raise: the service does not answer, or refuses.
FAULTS = (MeshError, OSError)
