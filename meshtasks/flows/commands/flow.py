"""The commands that concern no flow alone."""

from __future__ import annotations

from meshtasks.flows.commands.commands import COMMANDS
from meshtasks.flows.contract import Flow

FLOW = Flow("commands", commands=COMMANDS)
