"""What a worker answers when it is asked, by Celery's remote control."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command


@inspect_command(name="mesh_state")  # type: ignore[untyped-decorator]
def mesh_state(state: Any) -> dict[str, Any]:
    """The queues it consumes, those that rest, and the sinks that are down."""
    answer: dict[str, Any] = state.consumer.intake.state()
    return answer
