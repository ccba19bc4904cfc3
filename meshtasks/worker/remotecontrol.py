"""Celery's remote control, for a worker whose name may be taken.

Each worker has a queue for it, named for the worker and exclusive to its connection. A
second worker of that name is refused the queue: one that somebody forgot to name, or
the one that takes over from a frozen process, whose connection the broker keeps for a
minute or two. All such queues are bound to one fanout exchange, so their names do not
matter.
"""

from __future__ import annotations

import uuid
from copy import copy
from typing import Any

from amqp.exceptions import ResourceLocked
from celery.utils.log import get_logger
from celery.worker.consumer import Tasks
from celery.worker.consumer.control import Control
from kombu.exceptions import InconsistencyError

logger = get_logger(__name__)


class RemoteControl(Control):  # type: ignore[misc]  # celery ships no types
    """Celery's step, which takes a queue of another name where its own is taken."""

    requires = (Tasks,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.start = self._start

    def _start(self, consumer: Any) -> None:
        try:
            self.box.start(consumer)
        except (InconsistencyError, ResourceLocked):
            logger.warning(
                "Another worker is connected as %s, or the broker has not noticed yet "
                "that it is gone. Working all the same; if there are two, start each "
                "with a name of its own, such as -n two@%%h",
                consumer.hostname,
            )
            node = self.box.node
            node.mailbox = copy(node.mailbox)
            of_host = node.mailbox.get_queue
            node.mailbox.get_queue = lambda host: of_host(f"{host}.{uuid.uuid4()}")
            self.box.start(consumer)
