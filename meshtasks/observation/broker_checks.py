"""Checks of the broker for ``meshtasks doctor``: nodes, account, queues, workers."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Sequence
from functools import partial

from amqp.exceptions import NotFound

from meshtasks.amqp.accounts import OPERATOR, missing_rights
from meshtasks.amqp.connecting import AMQPS_PORT, connected, node_of, unopened
from meshtasks.amqp.drift import compare
from meshtasks.amqp.entities import queue_of
from meshtasks.amqp.management import LiveQueue, nodes, read
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.config.certificates import ends_at, tls_fault
from meshtasks.config.settings import Settings
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.diagnosis import Check, Verdict, size_text
from meshtasks.observation.collect import ask_workers, circuit_lines

_ANSWER_SECONDS = 5.0
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


def checks(settings: Settings, management_url: str | None) -> Iterator[Check]:
    """All checks of the broker. Each one can run without the others."""
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
    text, remedy = (
        f"none; {size_text(least.disk_free)} of disk free on {least.name}",
        "",
    )
    if not least.disk_free:  # and no alarm
        text = f"none; {least.name} cannot measure its free disk space"
        remedy = (
            "see its log; RabbitMQ 3.10 cannot if the path of its data is not ASCII"
        )
    elif least.disk_free < least.disk_free_limit + _LITTLE_FREE_BYTES:
        text += f"; it takes no messages at {size_text(least.disk_free_limit)}"
        remedy = "free disk space on the broker's host"
    return Verdict("warning" if remedy else "ok", text, remedy)


def topology(settings: Settings, management_url: str | None) -> Verdict:
    """Check that the broker has everything in topology.yaml."""
    live = read(settings.env.amqp_url, management_url)
    drift = compare(settings.read(TOPOLOGY), live)
    if drift.differences:
        text, *others = drift.differences
        text += f"; and {len(others)} more differences" if others else ""
        remedy = "meshtasks topology check names all, meshtasks topology apply adds"
        return Verdict("failed", text, remedy)
    return Verdict("ok", "as in topology.yaml")


def consumer_timeout(settings: Settings, management_url: str | None) -> Verdict:
    """Check that the broker's acknowledgement timeout is longer than a batch takes."""
    live = read(settings.env.amqp_url, management_url)
    longest = 0.0
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
            longest = max(longest, held) if given is None else longest
            continue
        text = f"{name}: batches may take {held:.0f} s, but the broker waits"
        text += f" {seconds:.0f} s for their acknowledgement"
        remedy = "lower time_limit_seconds in queues.yaml, or raise consumer_timeout"
        return Verdict("failed", text, remedy)
    text = "longer than any batch may take"
    if longest:
        text += (
            f", if rabbitmq.conf has the default or {longest:.0f} s at least: RabbitMQ"
        )
        text += " tells its value to nobody but `rabbitmqctl environment`"
    return Verdict("ok", text)
