"""Results of flows for ``config check`` and ``doctor``, and functions that flows share
to obtain them."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from meshtasks.amqp.entities import patterns_overlap, topic_matches
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.certificates import tls_fault
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.rules.config import RULES, Rule

_CONNECT_SECONDS = 5.0
_GIB = 1 << 30
_LEAST_FREE_BYTES, _LITTLE_FREE_BYTES = _GIB // 4, 2 * _GIB

State = Literal["ok", "warning", "failed", "skipped"]


class Verdict(NamedTuple):
    """The result of a check.

    Attributes:
        state: ``failed`` must be corrected now, a ``warning`` later; a ``skipped``
            check was not needed.
        text: finding.
        remedy: what to do about it; may be empty.
    """

    state: State
    text: str
    remedy: str = ""


class Check(NamedTuple):
    """One check of ``meshtasks doctor``.

    Attributes:
        name: name of the check.
        run: does the check. It may raise MeshError instead of returning a verdict.
        needs: name of a check that must succeed before; may be empty.
    """

    name: str
    run: Callable[[], Verdict]
    needs: str = ""


class Doubt(NamedTuple):
    """A finding of ``meshtasks config check`` in a file that is valid.

    Attributes:
        level: a ``warning`` is about something that can never work as written; a
            ``note`` is information.
        file: the file.
        key: dotted path of the value.
        text: finding.
    """

    level: Literal["warning", "note"]
    file: ConfigFile[Any]
    key: str
    text: str


class Detail(NamedTuple):
    """A detail of how a flow handles a message, for ``config check --explain``.

    Attributes:
        kind: first word of its line, such as ``rule``; in JSON its plural is the name
            of a member.
        text: rest of the line.
        data: the same as plain data.
        alert: labels of the alert that it may raise; None if it raises none.
    """

    kind: str
    text: str
    data: Mapping[str, Any]
    alert: Mapping[str, str] | None = None


def probe(settings: Settings, key: SinkKey[Any]) -> Verdict:
    """Probe a sink.

    Raises:
        SinkUnavailable: the sink is unavailable.
    """
    with closing(Sinks(settings)) as sinks:
        sinks[key].probe()
    return Verdict("ok", "answers")


def disk(directory: Path) -> Verdict:
    """Whether a directory is writable and has free space; it need not exist yet."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        text = f"{existing} may not be written"
        return Verdict("failed", text, f"chown it: {directory}")
    free = shutil.disk_usage(existing).free
    text = f"{size_text(free)} free at {directory}"
    if free < _LEAST_FREE_BYTES:
        return Verdict("failed", text, "free disk space")
    return Verdict("warning" if free < _LITTLE_FREE_BYTES else "ok", text)


def size_text(size_bytes: int) -> str:
    """A size as text, in GiB."""
    return f"{size_bytes / _GIB:.1f} GiB"


def unreachable(urls: Collection[str]) -> dict[str, str]:
    """URLs whose hosts accept no connection, or have no trusted certificate, with the
    reasons. Each host is tried once."""
    reasons: dict[tuple[str, int, bool], str] = {}
    found = {}
    for url in sorted(urls):
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        address = parts.hostname or "", parts.port or (443 if tls else 80), tls
        if address not in reasons:
            reasons[address] = _unreachable(*address)
        if reasons[address]:
            found[url] = reasons[address]
    return found


def _unreachable(host: str, port: int, tls: bool) -> str:  # noqa: FBT001 - of an address
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as plain:
            if tls:
                context = ssl.create_default_context()
                with context.wrap_socket(plain, server_hostname=host):
                    pass
            return ""
    except ssl.SSLError as error:
        return f"{host}:{port}: {tls_fault(error)}"
    except OSError as error:
        return f"{host}:{port} cannot be reached: {error}"


def can_occur(pattern: str, topology: Topology, queues: Collection[str | None]) -> bool:
    """Whether a message of one of these queues can have a routing key that matches the
    pattern."""
    for binding in topology.bindings:
        if binding.queue not in queues:
            continue
        # a fanout exchange accepts every key; the mesh's begin with its name
        is_fanout = topology.exchange_types.get(binding.exchange) == "fanout"
        key = f"{binding.exchange}.#" if is_fanout else binding.routing_key
        if patterns_overlap(pattern, key):
            return True
    return False


def rule_doubts(
    settings: Settings, queues: Collection[str], what: str, *, of_metrics: bool
) -> Iterator[Doubt]:
    """Warnings about rules that no record can match.

    Args:
        settings: gives the rules and the topology.
        queues: queues whose records the rules watch.
        what: name of these records, for the text.
        of_metrics: true for the rules of metrics, false for those of readings.
    """
    for index, rule in enumerate(settings.read(RULES).rules):
        if (rule.metric is not None) is not of_metrics:
            continue
        if not can_occur(rule.routing_key, settings.read(TOPOLOGY), queues):
            text = (
                f"the rule {rule.name} watches nothing: {rule.routing_key} matches no "
                f"routing key of {what} ({', '.join(sorted(queues))})"
            )
            yield Doubt("warning", RULES, f"rules.{index}.routing_key", text)


def rule_details(
    settings: Settings, routing_key: str, *, of_metrics: bool
) -> Iterator[Detail]:
    """Details of the rules that watch records with a routing key."""
    for rule in settings.read(RULES).rules:
        if (rule.metric is not None) is not of_metrics:
            continue
        if not topic_matches(rule.routing_key, routing_key):
            continue
        if rule.metric is None:
            sensors = "" if rule.sensors == ("*",) else ", ".join(rule.sensors)
            looks_at = f"sensors {sensors}" if sensors else "every sensor"
        else:
            tags = "".join(f", {tag} {value}" for tag, value in rule.tags.items())
            looks_at = f"metric {rule.metric}, field {rule.field}{tags}"
        yield rule_detail(rule, looks_at)


def rule_detail(rule: Rule, looks_at: str) -> Detail:
    """The detail of a rule.

    Args:
        rule: the rule.
        looks_at: what it watches: sensor ids, or name, field and tags of the metric.
    """
    return Detail(
        "rule",
        f"{rule.name}: {rule.severity}, {rule.type}, {looks_at}",
        {
            "name": rule.name,
            "severity": rule.severity,
            "type": rule.type,
            "looks_at": looks_at,
        },
        {
            "severity": rule.severity,
            "source": f"rules.{rule.name}",
            "rule": rule.name,
        },
    )
