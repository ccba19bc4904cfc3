"""What the flow of alerts gives to the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial

from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.commands import COMMANDS
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.handler import NOTIFIER, receive_critical, receive_others
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import Check, Detail, Doubt, Verdict, unreachable
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.sinks import Sinks


def _receivers(settings: Settings) -> Verdict:
    urls = settings.env.receivers
    if not urls:
        text = "no receiver of alerts.yaml has a URL: nobody is notified of alerts"
        return Verdict("warning", text, "set MESH_RECEIVERS__<NAME> to an Apprise URL")
    with closing(Sinks(settings)) as sinks:
        base_urls = sinks[NOTIFIER].base_urls()
    away = unreachable(set(base_urls.values()))
    if found := [
        f"{name}: {away[url]}" for name, url in base_urls.items() if url in away
    ]:
        remedy = "start the service, or correct MESH_RECEIVERS__<NAME>"
        return Verdict("failed", "; ".join(found), remedy)
    unknown = len(urls) - len(base_urls)
    rest = f", {unknown} cannot be asked without sending" if unknown else ""
    return Verdict("ok", f"{len(base_urls)} answer{rest}")


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("receivers", partial(_receivers, settings))


def _doubts(settings: Settings, _handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    policy, urls = settings.read(ALERTS), settings.env.receivers
    used = {name for route in policy.routes for name in route.receivers}
    for index, name in enumerate(policy.receivers):
        key = f"receivers.{index}"
        if name not in used:
            yield Doubt("warning", ALERTS, key, f"no route has receiver {name}")
        elif name not in urls:
            text = (
                f"receiver {name} has no URL and is left out; "
                f"set MESH_RECEIVERS__{name.upper()}"
            )
            yield Doubt("note", ALERTS, key, text)


def _explain(
    _settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    """Of an alert that was published under ``alerts.<severity>.<source>``."""
    _, severity, source = (*routing_key.split(".", 2), "", "")[:3]
    labels = {"severity": severity, "source": source}
    known = {name: value for name, value in labels.items() if value}
    yield Detail("alert", "", {}, known)


FLOW = Flow(
    "alerts",
    handlers=(receive_critical, receive_others),
    files=(ALERTS, ARCHIVE),
    sinks=(ALERT_STATE,),
    commands=COMMANDS,
    checks=_checks,
    doubts=_doubts,
    explain=_explain,
)
