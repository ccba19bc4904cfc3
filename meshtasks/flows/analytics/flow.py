"""The flow of analytics: its rows are made by the archive's handlers, its work is done
by commands of the console script."""

from __future__ import annotations

from meshtasks.flows.contract import Flow
from meshtasks.records.kinds import KINDS

FLOW = Flow("analytics", files=(KINDS,))
