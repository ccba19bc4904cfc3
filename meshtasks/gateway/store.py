"""What the gateway remembers: tasks and idempotency keys; and the thread that fetches
the results of commands into it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

import amqp
import kombu
from pydantic import ValidationError

from meshtasks.amqp.calls import Answer
from meshtasks.amqp.connecting import unopened
from meshtasks.errors import MeshError
from meshtasks.gateway.problems import Problem
from meshtasks.state.connecting import Transaction
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.keys import clean, storable
from meshtasks.timing import Backoff

#: The file's name in errors.
_SINK = "gateway_state"
#: A request that has not ended after so long was cut off; its key may be used again.
_REQUEST_SECONDS = 60.0

#: An answer may have come before, from a request that was cut off.
_SUBMIT = """
INSERT INTO gateway_tasks (id, name, client, state, submitted_at, updated_at)
VALUES (:id, :name, :client, 'PENDING', :now, :now)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, client = excluded.client,
submitted_at = coalesce(gateway_tasks.submitted_at, excluded.submitted_at)
"""
_ANSWER = """
INSERT INTO gateway_tasks (id, state, result, error, updated_at)
VALUES (:id, :state, :result, :error, :at)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, result = excluded.result,
error = excluded.error, updated_at = excluded.updated_at
WHERE gateway_tasks.state NOT IN ('SUCCESS', 'FAILURE', 'REVOKED')
"""
_TASKS = """
SELECT id, name, client, state, result, error, submitted_at, updated_at
FROM gateway_tasks WHERE name IS NOT NULL
"""
#: Of two gateways that are given the same request, one makes the row.
_RESERVE = """
INSERT INTO gateway_requests (client, key, digest, id, at)
VALUES (:client, :key, :digest, :id, :now) ON CONFLICT DO NOTHING RETURNING id
"""
_ITS = " WHERE client = :client AND key = :key"
_REQUEST = "SELECT digest, id, at, response FROM gateway_requests" + _ITS  # noqa: S608 - ours
_BEGIN_AGAIN = "UPDATE gateway_requests SET at = :value" + _ITS  # noqa: S608 - ours
_RESPOND = "UPDATE gateway_requests SET response = :value" + _ITS  # noqa: S608 - ours
_FORGET = "DELETE FROM gateway_requests" + _ITS  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was started here.

    Attributes:
        state: Celery's word, ``PENDING`` until something is heard of it.
        client: who started it.
        submitted_at: epoch seconds.
        updated_at: epoch seconds; when its state was last heard of.
    """

    id: str
    name: str
    client: str
    state: str
    result: Any
    error: str | None
    submitted_at: float
    updated_at: float


def _task(row: Any) -> Task:
    id_, name, client, state, result, *rest = row
    result = None if result is None else json.loads(result)
    return Task(id_, name, client, state, result, *rest)


class Reserved(NamedTuple):
    """A request with a key.

    Attributes:
        id: of what it makes, the same each time.
        response: what it was answered, if it was.
    """

    id: str
    response: dict[str, Any] | None


class Store:
    """The tables of the state; any thread may use it.

    Args:
        keep_keys_seconds: how long a key is remembered.
        keep_tasks_seconds: how long a task is, after the last news of it.
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
        """Note that a task is about to be started."""
        values = {"id": storable(task_id), "name": name, "client": client, "now": now}
        oldest = {"oldest": now - self._keep_tasks_seconds}
        with self._transaction() as db:
            db.execute(_SUBMIT, values)
            db.execute("DELETE FROM gateway_tasks WHERE updated_at < :oldest", oldest)

    def answered(self, answer: Answer) -> None:
        """Note what is known of a task; what is final stays."""
        values = {
            "id": storable(answer.task_id),
            "state": clean(answer.state),
            "result": None if answer.result is None else json.dumps(answer.result),
            "error": None if answer.error is None else clean(answer.error),
            "at": answer.at,
        }
        with self._transaction() as db:
            db.execute(_ANSWER, values)

    def task(self, task_id: str) -> Task | None:
        """A task that was started here; None if none was, or long ago."""
        with self._transaction() as db:
            query = f"{_TASKS} AND id = :id"
            row = db.execute(query, {"id": storable(task_id)}).fetchone()
        return None if row is None else _task(row)

    def latest(self, most: int, client: str | None = None) -> list[Task]:
        """The tasks that were heard of last.

        Args:
            most: so many.
            client: only those that it started.
        """
        of_client = "" if client is None else "AND client = :client"
        query = f"{_TASKS} {of_client} ORDER BY updated_at DESC LIMIT :most"
        with self._transaction() as db:
            return list(map(_task, db.execute(query, {"client": client, "most": most})))

    # --- requests with a key ----------------------------------------------

    def reserve(
        self, client: str, key: str, digest: str, new_id: str, now: float
    ) -> Reserved:
        """Begin a request, or find what it was answered the first time.

        Args:
            client: whose key it is.
            key: the client's word for this request.
            digest: of everything else in the request.
            new_id: for what it makes, if the key is new.
            now: epoch seconds.

        Raises:
            Problem: the key stands for another request, or this one is under way.
        """
        its = _its(client, key)
        oldest = {"oldest": now - self._keep_keys_seconds}
        lock = " FOR UPDATE" if self._database.is_shared else ""
        with self._transaction() as db:
            db.execute("DELETE FROM gateway_requests WHERE at < :oldest", oldest)
            values = {**its, "digest": digest, "id": new_id, "now": now}
            if db.execute(_RESERVE, values).fetchall():
                return Reserved(new_id, None)
            (row,) = db.execute(_REQUEST + lock, its).fetchall()
            known_digest, known_id, at, response = row
            if known_digest != digest:
                detail = "This Idempotency-Key was used for another request."
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
            if response is not None:
                return Reserved(known_id, json.loads(response))
            if now - at < _REQUEST_SECONDS:
                detail = "A request with this Idempotency-Key is under way."
                wait = {"Retry-After": "1"}
                raise Problem(HTTPStatus.CONFLICT, detail, headers=wait)
            db.execute(_BEGIN_AGAIN, its | {"value": now})
            return Reserved(known_id, None)

    def respond(self, client: str, key: str, response: dict[str, Any]) -> None:
        """Note what a request was answered."""
        self._change(_RESPOND, client, key, json.dumps(response))

    def release(self, client: str, key: str, now: float) -> None:
        """Let a request that failed be made again; it keeps its id."""
        self._change(_BEGIN_AGAIN, client, key, now - _REQUEST_SECONDS)

    def forget(self, client: str, key: str) -> None:
        """Forget a request that was refused."""
        self._change(_FORGET, client, key)

    def _change(self, change: str, client: str, key: str, value: object = None) -> None:
        with self._transaction() as db:
            db.execute(change, _its(client, key) | {"value": value})

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with self._lock, self._database.transaction() as db:
            yield db


def _its(client: str, key: str) -> dict[str, Any]:
    return {"client": client, "key": storable(key)}


logger = logging.getLogger(__name__)

_PREFETCH = 100
_TURN_SECONDS = 0.5
_HEARTBEAT_SECONDS = 20


class Answers:
    """The thread.

    Args:
        queue: where answers wait.
        store: where they go; an answer is acknowledged once it is there.
        on_connection: called with why the broker is away, or with nothing when it is
            back.
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
                self._on_connection(str(error) or type(error).__name__)
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
            logger.error("Dropped what is no answer of a command: %s", error)  # noqa: TRY400
            message.channel.basic_reject(message.delivery_tag, requeue=False)
            return
        self._store.answered(answer)
        message.channel.basic_ack(message.delivery_tag)
