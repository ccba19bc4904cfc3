"""Fetches the outcomes of commands from the broker into the store, in one thread."""

from __future__ import annotations

import logging
import threading
from typing import Any

import amqp
import kombu
from pydantic import ValidationError

from meshtasks.amqp.calls import Answer
from meshtasks.amqp.connecting import unopened
from meshtasks.errors import MeshError
from meshtasks.gateway.store import Store
from meshtasks.timing import Backoff

logger = logging.getLogger(__name__)

_PREFETCH = 100
_TURN_SECONDS = 0.5
_HEARTBEAT_SECONDS = 20


class Answers:
    """The thread.

    Args:
        url: AMQP URL.
        queue: where answers wait.
        store: where they go; an answer is acknowledged once it is there.
    """

    def __init__(self, url: str, queue: str, store: Store) -> None:
        self._url = url
        self._queue = queue
        self._store = store
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers")

    @property
    def listening(self) -> bool:
        """Whether the broker is there and answers arrive."""
        return self._listening.is_set()

    def start(self) -> None:
        """Start fetching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop fetching; what is not stored stays in its queue."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        attempt = 0
        backoff = Backoff()
        while not self._stopping.is_set():
            connection = unopened(self._url)
            connection.heartbeat = _HEARTBEAT_SECONDS
            try:
                self._fetch(connection)
            except (
                MeshError,
                *amqp.Connection.connection_errors,
                *amqp.Connection.channel_errors,
            ) as error:
                attempt = 0 if self._listening.is_set() else attempt + 1
                self._listening.clear()
                logger.warning("Answers of commands are not heard: %s", error)
                self._stopping.wait(backoff.delay_seconds(attempt))
            finally:
                connection.release()

    def _fetch(self, connection: kombu.Connection) -> None:
        connection.connect()
        channel = connection.channel()
        channel.basic_qos(0, _PREFETCH, a_global=False)
        channel.basic_consume(self._queue, callback=self._take)
        self._listening.set()
        while not self._stopping.is_set():
            try:
                connection.drain_events(timeout=_TURN_SECONDS)
            except TimeoutError:
                connection.heartbeat_check()

    def _take(self, message: Any) -> None:
        try:
            answer = Answer.model_validate_json(message.body)
        except ValidationError as error:
            logger.error("Dropped what is no answer of a command: %s", error)  # noqa: TRY400
            message.channel.basic_reject(message.delivery_tag, requeue=False)
            return
        self._store.answered(answer)
        message.channel.basic_ack(message.delivery_tag)
