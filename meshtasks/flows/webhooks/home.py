"""home.events.state_changes and home.events.automations: what happens in the house
starts workflows.

They come in batches so that workflows may take a whole batch in one request, and
for the archive; the batches are small and do not wait long (config/queues.yaml),
because somebody stands in the dark. Without a workflow for it an event is archived
if it is selected, and done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, handles
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks.events import (
    read_automation_trigger,
    read_events,
    read_state_change,
)
from meshtasks.flows.webhooks.workflows import SINKS, run_workflows
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import AutomationTrigger, StateChange


def _refuses_changes(
    changes: Sequence[StateChange], envelopes: Sequence[Envelope], _settings: Settings
) -> Mapping[int, Dead]:
    return read_events(changes, envelopes, read_state_change).dead


def _refuses_triggers(
    triggers: Sequence[AutomationTrigger],
    envelopes: Sequence[Envelope],
    _settings: Settings,
) -> Mapping[int, Dead]:
    return read_events(triggers, envelopes, read_automation_trigger).dead


@handles(
    "home.events.state_changes",
    record=StateChange,
    sinks=SINKS,
    refuses=_refuses_changes,
)
def pass_on_state_changes(batch: Batch[StateChange], sinks: Sinks) -> list[Outcome]:
    """Start the workflows that wait for an entity to change."""
    events = read_events(batch.records, batch.envelopes, read_state_change)
    return run_workflows(batch, events, sinks)


@handles(
    "home.events.automations",
    record=AutomationTrigger,
    sinks=SINKS,
    refuses=_refuses_triggers,
)
def pass_on_automations(batch: Batch[AutomationTrigger], sinks: Sinks) -> list[Outcome]:
    """Start the workflows that wait for an automation."""
    events = read_events(batch.records, batch.envelopes, read_automation_trigger)
    return run_workflows(batch, events, sinks)
