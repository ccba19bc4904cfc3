"""sensors.motion: somebody moves, and workflows start.

Batches are small and do not wait long (config/queues.yaml), because somebody stands
in the dark. No point is written: the lights would have to wait for the time-series
store whenever that is down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, handles
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks.events import Events, read_events, read_motion
from meshtasks.flows.webhooks.workflows import SINKS, run_workflows
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import Motion


def _refuses(
    motions: Sequence[Motion], envelopes: Sequence[Envelope], settings: Settings
) -> Mapping[int, Dead]:
    return _read(motions, envelopes, settings).dead


def _read(
    motions: Sequence[Motion], envelopes: Sequence[Envelope], settings: Settings
) -> Events:
    oldest_seconds = settings.read(KINDS).oldest_seconds("motion")
    return read_events(motions, envelopes, read_motion, oldest_seconds)


@handles("sensors.motion", record=Motion, sinks=SINKS, refuses=_refuses)
def pass_on_motions(batch: Batch[Motion], sinks: Sinks) -> list[Outcome]:
    """Start the workflows that wait for motion."""
    events = _read(batch.records, batch.envelopes, sinks.settings)
    return run_workflows(batch, events, sinks)
