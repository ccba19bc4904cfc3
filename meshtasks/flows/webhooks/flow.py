"""What the flow of webhooks gives to the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from meshtasks.amqp.routing import topic_matches
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import (
    Check,
    Detail,
    Doubt,
    Verdict,
    can_occur,
    probe,
    unreachable,
)
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.webhooks.client import WEBHOOK
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.flows.webhooks.handler import (
    pass_on_automations,
    pass_on_motions,
    pass_on_state_changes,
)
from meshtasks.flows.webhooks.workflows import WEBHOOK_LOG
from meshtasks.records.kinds import KINDS

_HANDLERS = (pass_on_motions, pass_on_state_changes, pass_on_automations)


def _webhooks(settings: Settings) -> Verdict:
    webhooks = [each.webhook for each in settings.read(WORKFLOWS).workflows]
    if not webhooks:
        return Verdict("skipped", "workflows.yaml names none")
    if any(webhook.is_path for webhook in webhooks):
        probe(settings, WEBHOOK)
    away = unreachable({each.url for each in webhooks if not each.is_path})
    if away:
        remedy = "start them, or correct the URLs in workflows.yaml"
        return Verdict("failed", "; ".join(dict.fromkeys(away.values())), remedy)
    return Verdict("ok", f"{len(webhooks)} workflows, their hosts answer")


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("webhooks", partial(_webhooks, settings))


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    records = {handler.record for handler in _HANDLERS}
    queues = {queue for queue, each in handlers.items() if each.record in records}
    for index, workflow in enumerate(settings.read(WORKFLOWS).workflows):
        if not can_occur(workflow.routing_key, settings.read(TOPOLOGY), queues):
            text = (
                f"nothing starts {workflow.name}: {workflow.routing_key} matches no "
                f"routing key of {', '.join(sorted(queues))}"
            )
            key = f"workflows.{index}.routing_key"
            yield Doubt("warning", WORKFLOWS, key, text)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    for workflow in settings.read(WORKFLOWS).workflows:
        if topic_matches(workflow.routing_key, routing_key):
            webhook = workflow.webhook
            base = settings.env.n8n_url.rstrip("/") if webhook.is_path else ""
            url = base + webhook.url
            when = [condition.field for condition in workflow.when]
            only = f", if {', '.join(when)} are so" if when else ""
            yield Detail(
                "workflow",
                f"{workflow.name}: {url}{only}",
                {"name": workflow.name, "url": url, "when": when},
            )


FLOW = Flow(
    "webhooks",
    handlers=_HANDLERS,
    files=(WORKFLOWS, KINDS, ARCHIVE),
    sinks=(WEBHOOK_LOG,),
    checks=_checks,
    doubts=_doubts,
    explain=_explain,
)
