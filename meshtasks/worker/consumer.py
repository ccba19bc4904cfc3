"""Celery's consumer with our intake in its blueprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from typing_extensions import override

from meshtasks.worker import inspection  # noqa: F401 - registers its answer
from meshtasks.worker.commands import fault_of
from meshtasks.worker.intake import Intake
from meshtasks.worker.mesh import mesh_of

logger = get_logger(__name__)


class MeshConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Consumes domain queues in batches, and commands as Celery does.

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
    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """What is called with each message of the commands queue."""
        receive = super().create_task_handler(*args, **kwargs)
        commands = mesh_of(self.app).commands

        def receive_call(message: Any) -> None:
            fault = fault_of(
                message.headers, message.properties, message.body, commands
            )
            if fault is None:
                receive(message)
            else:
                logger.error("A message is no command and dead: %s", fault)
                message.reject_log_error(logger, self.connection_errors)

        return receive_call

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
