"""Every handler, command and file of config/: importing this registers all handlers."""

from __future__ import annotations

from typing import Any

from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.flows.alerts import commands as alert_commands
from meshtasks.flows.alerts import handler as alerts  # noqa: F401 - they register their handlers
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.archive import handler as archive  # noqa: F401 - they register their handlers
from meshtasks.flows.command import Command
from meshtasks.flows.commands import commands as mesh_commands
from meshtasks.flows.contract import HANDLERS
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference import commands as inference_commands
from meshtasks.flows.inference import handler as inference  # noqa: F401 - they register their handlers
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.metrics import handler as metrics  # noqa: F401 - they register their handlers
from meshtasks.flows.readings import handler as climate  # noqa: F401 - they register their handlers
from meshtasks.flows.webhooks import handler as webhooks  # noqa: F401 - they register their handlers
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.records.kinds import KINDS
from meshtasks.rules.config import RULES

__all__ = ("COMMANDS", "FILES", "HANDLERS")

#: Every file of config/ that the flows read.
FILES = (TOPOLOGY, QUEUES, RULES, KINDS, ARCHIVE, WORKFLOWS, MODELS, ALERTS)

#: By name.
COMMANDS: dict[str, Command[Any]] = {
    command.name: command
    for module in (mesh_commands, inference_commands, alert_commands)
    for command in module.COMMANDS
}
