"""State of the gateway: tasks and idempotency keys.

A thread stores the answers of commands in it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import amqp
import kombu
from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, update

from meshtasks.amqp.calls import Answer
from meshtasks.amqp.connecting import unopened
from meshtasks.errors import MeshError
from meshtasks.gateway.problems import Problem
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.tables import (
    GATEWAY_REQUESTS,
    GATEWAY_TASKS,
    clean,
    insert,
    storable,
)
from meshtasks.timing import Backoff

#: Name of this state in errors.
_SINK = "gateway_state"
#: A request that is older and has no response was interrupted; its key may be used
#: again.
_REQUEST_SECONDS = 60.0

_TASKS, _REQUESTS = GATEWAY_TASKS.c, GATEWAY_REQUESTS.c
#: States of a task that are final.
ENDED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


class Task(NamedTuple):
    """A call of a command through the gateway.

    Attributes:
        id: id of the Celery task.
        name: name of the command.
        client: name of the client that called it.
        state: state as in Celery; ``PENDING`` until the first answer.
        result: result of the command, as JSON; None before it succeeds.
        error: reason of a failure or a retry, else None.
        submitted_at: time of the call, in epoch seconds.
        updated_at: time of the latest answer or of the call, in epoch seconds.
    """

    id: str
    name: str
    client: str
    state: str
    result: Any
    error: str | None
    submitted_at: float
    updated_at: float


def _task(row: Row[Any]) -> Task:
    result = None if row.result is None else json.loads(row.result)
    return Task(**row._asdict() | {"result": result})


class Reserved(NamedTuple):
    """A request with an idempotency key.

    Attributes:
        id: id of the message or task that it creates, the same at each repetition.
        response: the first response; None if there is none yet.
    """

    id: str
    response: dict[str, Any] | None


class Store:
    """The gateway's tables of the state. Safe for use by several threads.

    Errors of the database are raised as in :class:`~meshtasks.state.database.Database`.

    Args:
        location: where the state is.
        keep_keys_seconds: how long an idempotency key is kept.
        keep_tasks_seconds: how long a task is kept after its last update.
    """

    def __init__(
        self,
        location: StateLocation,
        keep_keys_seconds: float,
        keep_tasks_seconds: float,
    ) -> None:
        self._database = Database(_SINK, location, "gateway.sqlite")
        self._lock = threading.Lock()
        self._keep_keys_seconds = keep_keys_seconds
        self._keep_tasks_seconds = keep_tasks_seconds

    # --- tasks ------------------------------------------------------------

    def submitted(self, task_id: str, name: str, client: str, now: float) -> None:
        """Record a task that is about to be called; delete tasks that are too old."""
        values = {
            "id": storable(task_id),
            "name": name,
            "client": client,
            "state": "PENDING",
            "submitted_at": now,
            "updated_at": now,
        }
        with self._transaction() as db:
            change = insert(db, GATEWAY_TASKS)
            new = change.excluded
            # An answer may exist already, if an earlier request was interrupted.
            change = change.on_conflict_do_update(
                index_elements=GATEWAY_TASKS.primary_key,
                set_={
                    "name": new.name,
                    "client": new.client,
                    "submitted_at": func.coalesce(
                        _TASKS.submitted_at, new.submitted_at
                    ),
                },
            )
            db.execute(change, values)
            oldest = now - self._keep_tasks_seconds
            db.execute(delete(GATEWAY_TASKS).where(_TASKS.updated_at < oldest))

    def answered(self, answer: Answer) -> None:
        """Record the state of a task, unless its recorded state is final."""
        values = {
            "id": storable(answer.task_id),
            "state": clean(answer.state),
            "result": None if answer.result is None else json.dumps(answer.result),
            "error": None if answer.error is None else clean(answer.error),
            "updated_at": answer.at,
        }
        with self._transaction() as db:
            change = insert(db, GATEWAY_TASKS)
            new = change.excluded
            change = change.on_conflict_do_update(
                index_elements=GATEWAY_TASKS.primary_key,
                set_={name: new[name] for name in values if name != "id"},
                where=_TASKS.state.not_in(ENDED),
            )
            db.execute(change, values)

    def task(self, task_id: str) -> Task | None:
        """A task; None if there is none with this id, or if it was deleted."""
        query = select(GATEWAY_TASKS).where(
            _TASKS.id == storable(task_id), _TASKS.name.is_not(None)
        )
        with self._transaction() as db:
            row = db.execute(query).first()
        return None if row is None else _task(row)

    def latest(self, most: int, client: str | None = None) -> list[Task]:
        """The most recently updated tasks, newest first.

        Args:
            most: greatest number of tasks.
            client: name of a client, to get only its tasks.
        """
        query = select(GATEWAY_TASKS).where(_TASKS.name.is_not(None))
        if client is not None:
            query = query.where(_TASKS.client == client)
        query = query.order_by(_TASKS.updated_at.desc()).limit(most)
        with self._transaction() as db:
            return list(map(_task, db.execute(query)))

    # --- requests with a key ----------------------------------------------

    def reserve(
        self, client: str, key: str, digest: str, new_id: str, now: float
    ) -> Reserved:
        """Record the start of a request, or return its first response.

        Args:
            client: name of the client.
            key: idempotency key, unique for each client.
            digest: digest of the request.
            new_id: id for the message or task, if the key is new.
            now: current time in epoch seconds.

        Raises:
            Problem: 422 if the key belongs to another request, 409 if the request is
                in progress.
        """
        values = {
            "client": client,
            "key": storable(key),
            "digest": digest,
            "id": new_id,
            "at": now,
            "response": None,
        }
        with self._transaction() as db:
            oldest = now - self._keep_keys_seconds
            db.execute(delete(GATEWAY_REQUESTS).where(_REQUESTS.at < oldest))
            # If two gateways get the same request, only one of them inserts the row.
            begin = insert(db, GATEWAY_REQUESTS).on_conflict_do_nothing()
            if db.execute(begin.returning(_REQUESTS.id), values).first():
                return Reserved(new_id, None)
            its = _its(client, key)
            row = db.execute(select(GATEWAY_REQUESTS).where(*its).with_for_update())
            known = row.one()
            if known.digest != digest:
                detail = "This Idempotency-Key was used for another request."
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
            if known.response is not None:
                return Reserved(known.id, json.loads(known.response))
            if now - known.at < _REQUEST_SECONDS:
                detail = "A request with this Idempotency-Key is under way."
                wait = {"Retry-After": "1"}
                raise Problem(HTTPStatus.CONFLICT, detail, headers=wait)
            db.execute(update(GATEWAY_REQUESTS).where(*its).values(at=now))
            return Reserved(known.id, None)

    def respond(self, client: str, key: str, response: dict[str, Any]) -> None:
        """Record the response of a request."""
        change = update(GATEWAY_REQUESTS).where(*_its(client, key))
        with self._transaction() as db:
            db.execute(change.values(response=json.dumps(response)))

    def release(self, client: str, key: str, now: float) -> None:
        """Allow a failed request to be repeated; it keeps its id."""
        change = update(GATEWAY_REQUESTS).where(*_its(client, key))
        with self._transaction() as db:
            db.execute(change.values(at=now - _REQUEST_SECONDS))

    def forget(self, client: str, key: str) -> None:
        """Delete a request that was refused."""
        with self._transaction() as db:
            db.execute(delete(GATEWAY_REQUESTS).where(*_its(client, key)))

    def close(self) -> None:
        """Close the connection to the database."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock, self._database.transaction() as db:
            yield db


def _its(client: str, key: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _REQUESTS.client == client, _REQUESTS.key == storable(key)


logger = logging.getLogger(__name__)

_PREFETCH = 100
_TURN_SECONDS = 0.5
_HEARTBEAT_SECONDS = 20


class Answers:
    """The thread that consumes answers of commands and stores them.

    Args:
        url: AMQP URL of the broker.
        queue: queue of the answers.
        store: where answers are stored; they are acknowledged afterwards.
        on_connection: called with the reason when the broker becomes unavailable, and
            with an empty text when it is connected again.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        store: Store,
        on_connection: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_connection = on_connection
        self._url = url
        self._queue = queue
        self._store = store
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers")

    @property
    def listening(self) -> bool:
        """Whether the thread is connected and consumes answers."""
        return self._listening.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; answers that are not stored stay in their queue."""
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
                self._on_connection(str(error) or type(error).__name__)
                logger.warning("Results of commands cannot be received: %s", error)
                self._stopping.wait(backoff.delay_seconds(attempt))
            finally:
                connection.release()

    def _fetch(self, connection: kombu.Connection) -> None:
        connection.connect()
        channel = connection.channel()
        channel.basic_qos(0, _PREFETCH, a_global=False)
        channel.basic_consume(self._queue, callback=self._take)
        self._listening.set()
        self._on_connection("")
        while not self._stopping.is_set():
            try:
                connection.drain_events(timeout=_TURN_SECONDS)
            except TimeoutError:
                connection.heartbeat_check()

    def _take(self, message: Any) -> None:
        try:
            answer = Answer.model_validate_json(message.body)
        except ValidationError as error:
            text = "Rejected a message that is not the result of a command: %s"
            logger.error(text, error)  # noqa: TRY400 - the text says it
            message.channel.basic_reject(message.delivery_tag, requeue=False)
            return
        self._store.answered(answer)
        message.channel.basic_ack(message.delivery_tag)
