"""What became of Home Assistant's events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts since the start.

    ``events = state_changes + triggers + excluded + own + invalid_events``.

    Attributes:
        connections: that Home Assistant let in.
        events: that it sent.
        state_changes: events that were published as such.
        triggers: events that were published as an automation's trigger.
        readings: of these, changes that were published as a reading as well.
        excluded: events of entities that the config leaves out.
        own: events that the mesh itself caused.
        invalid_events: events that no message can be made of.
        invalid_frames: what is no frame of Home Assistant's protocol.
        invalid_states: after a gap, what is no state of an entity.
        gaps: times in which nobody listened.
        gap_seconds: their sum.
        caught_up: messages about what came of them.
    """

    connections: int = 0
    events: int = 0
    state_changes: int = 0
    triggers: int = 0
    readings: int = 0
    excluded: int = 0
    own: int = 0
    invalid_events: int = 0
    invalid_frames: int = 0
    invalid_states: int = 0
    gaps: int = 0
    gap_seconds: float = 0.0
    caught_up: int = 0
