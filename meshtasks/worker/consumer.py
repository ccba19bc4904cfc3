"""Celery's consumer with our intake in its blueprint."""

from __future__ import annotations

from typing import Any

from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer
from typing_extensions import override

from meshtasks.worker.intake import Intake


class MeshConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Consumes domain queues in batches, all other queues as Celery does.

    Celery's delayed-delivery step is left out: for quorum queues it would declare
    28 exchanges and queues of its own and bind every domain queue to them.
    """

    intake: Intake

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps, less delayed delivery, plus the intake."""

        default_steps = (
            *(
                step
                for step in Consumer.Blueprint.default_steps
                if not step.endswith(":DelayedDelivery")
            ),
            Intake,
        )

    @override
    def start(self) -> None:
        """Consume until told to stop. A warm shutdown finishes what is held here:
        once Celery's own shutdown begins, the pool takes no more work."""
        try:
            super().start()
        except WorkerShutdown:
            self.intake.drain()
            raise

    @override
    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Start consuming a queue, on remote control's request."""
        if self.intake.handles(queue):
            self.intake.add(queue)
        else:
            super().add_task_queue(queue, *args, **kwargs)

    @override
    def cancel_task_queue(self, queue: str) -> None:
        """Stop consuming a queue, on remote control's request."""
        if self.intake.handles(queue):
            self.intake.remove(queue)
        super().cancel_task_queue(queue)
