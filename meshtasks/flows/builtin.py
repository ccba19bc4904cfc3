"""Every handler, command and file of config/: importing this registers all handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshtasks.amqp.queues import QUEUES, QueueEntry
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.loader import refuse
from meshtasks.config.settings import Settings
from meshtasks.flows import analytics  # noqa: F401 - it follows the archive
from meshtasks.flows.alerts import commands as alert_commands
from meshtasks.flows.alerts import handler as alerts  # noqa: F401 - they register their handlers
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.archive import handler as archive  # noqa: F401 - they register their handlers
from meshtasks.flows.command import Command
from meshtasks.flows.commands import commands as mesh_commands
from meshtasks.flows.contract import HANDLERS, Handler
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference import commands as inference_commands
from meshtasks.flows.inference import handler as inference  # noqa: F401 - they register their handlers
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.metrics import handler as metrics  # noqa: F401 - they register their handlers
from meshtasks.flows.readings.handler import handler_of_kind
from meshtasks.flows.webhooks import handler as webhooks  # noqa: F401 - they register their handlers
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.records.kinds import KINDS
from meshtasks.rules.config import RULES

__all__ = ("COMMANDS", "FILES", "HANDLERS", "handlers_of")

#: Every file of config/ that the flows read.
FILES = (TOPOLOGY, QUEUES, RULES, KINDS, ARCHIVE, WORKFLOWS, MODELS, ALERTS)

#: By name.
COMMANDS: dict[str, Command[Any]] = {
    command.name: command
    for module in (mesh_commands, inference_commands, alert_commands)
    for command in module.COMMANDS
}
#: The flows that a queue may be given to in queues.yaml: name → the handler of a queue
#: whose records are of a kind.
_BY_KIND: Mapping[str, Callable[[str, str], Handler]] = {"readings": handler_of_kind}


def handlers_of(settings: Settings) -> Mapping[str, Handler]:
    """The handlers by queue, those of queues.yaml included.

    Raises:
        ConfigError: a file cannot be used, or queues.yaml names a flow or a kind that
            is not there.
    """
    entries = settings.read(QUEUES).queues
    given = {queue: entry for queue, entry in entries.items() if entry.flow}
    refuse(
        settings.fault(QUEUES, f"queues.{queue}.{key}", expected)
        for queue, entry in given.items()
        for key, expected in _faults(queue, entry, settings)
    )
    return HANDLERS | {
        queue: _BY_KIND[entry.flow](queue, entry.kind) for queue, entry in given.items()
    }


def _faults(
    queue: str, entry: QueueEntry, settings: Settings
) -> Iterator[tuple[str, str]]:
    """Keys of a queue's entry, and what was expected there."""
    kinds = settings.read(KINDS).quantities
    if queue in HANDLERS:
        yield "flow", f"no flow, since {queue} has one already"
    elif queue not in settings.read(TOPOLOGY).domain_queues:
        yield "flow", f"no flow, since {queue} is no queue of records"
    elif entry.flow not in _BY_KIND:
        yield "flow", f"expected one of {', '.join(_BY_KIND)}, got {entry.flow}"
    elif entry.kind not in kinds:
        known = f"one of {', '.join(kinds)}, or another that kinds.yaml declares"
        if entry.kind:
            yield "kind", f"expected {known}, got {entry.kind}"
        else:
            yield "flow", f"expected a kind beside it: {known}"
