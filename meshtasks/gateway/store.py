"""What the gateway remembers: tasks and idempotency keys; and the thread that fetches
the results of commands into it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

import amqp
import kombu
from pydantic import ValidationError

from meshtasks.amqp.calls import Answer
from meshtasks.amqp.connecting import unopened
from meshtasks.errors import MeshError
from meshtasks.gateway.problems import Problem
from meshtasks.state.sqlite import SqliteFile
from meshtasks.timing import Backoff

#: The file's name in errors.
_SINK = "gateway_state"
#: A request that has not ended after so long was cut off; its key may be used again.
_REQUEST_SECONDS = 60.0

_SHAPE = 1
_SCHEMA = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, name TEXT, client TEXT,
    state TEXT NOT NULL, result TEXT, error TEXT,
    submitted_at REAL, updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX tasks_age ON tasks (updated_at);
CREATE TABLE requests (
    client TEXT NOT NULL, key TEXT NOT NULL,
    digest TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, response TEXT,
    PRIMARY KEY (client, key)
) WITHOUT ROWID;
CREATE INDEX requests_age ON requests (at)
"""
_ANSWERED = """
INSERT INTO tasks (id, state, result, error, updated_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, result = excluded.result, error = excluded.error,
    updated_at = excluded.updated_at
WHERE tasks.state NOT IN ('SUCCESS', 'FAILURE', 'REVOKED')
"""
#: An answer may have come before, from a request that was cut off.
_SUBMITTED = """
INSERT INTO tasks (id, name, client, state, submitted_at, updated_at)
VALUES (?, ?, ?, 'PENDING', ?, ?)
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, client = excluded.client,
    submitted_at = coalesce(tasks.submitted_at, excluded.submitted_at)
"""


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


class Reserved(NamedTuple):
    """A request with a key.

    Attributes:
        id: of what it makes, the same each time.
        response: what it was answered, if it was.
    """

    id: str
    response: dict[str, Any] | None


class Store:
    """The file; any thread may use it.

    Args:
        path: where it is.
        keep_keys_seconds: how long a key is remembered.
        keep_tasks_seconds: how long a task is, after the last news of it.
    """

    def __init__(
        self, path: Path, keep_keys_seconds: float, keep_tasks_seconds: float
    ) -> None:
        self._file = SqliteFile(_SINK, path, _SCHEMA, _SHAPE)
        self._lock = threading.Lock()
        self._keep_keys_seconds = keep_keys_seconds
        self._keep_tasks_seconds = keep_tasks_seconds

    # --- tasks ------------------------------------------------------------

    def submitted(self, task_id: str, name: str, client: str, now: float) -> None:
        """Note that a task is about to be started."""
        with self._transaction() as db:
            db.execute(_SUBMITTED, (task_id, name, client, now, now))
            oldest = now - self._keep_tasks_seconds
            db.execute("DELETE FROM tasks WHERE updated_at < ?", (oldest,))

    def answered(self, answer: Answer) -> None:
        """Note what is known of a task; what is final stays."""
        result = None if answer.result is None else json.dumps(answer.result)
        values = answer.task_id, answer.state, result, answer.error, answer.at
        with self._transaction() as db:
            db.execute(_ANSWERED, values)

    def task(self, task_id: str) -> Task | None:
        """A task that was started here; None if none was, or long ago."""
        query = """
            SELECT id, name, client, state, result, error, submitted_at, updated_at
            FROM tasks WHERE id = ? AND name IS NOT NULL
        """
        with self._transaction() as db:
            row = db.execute(query, (task_id,)).fetchone()
        if row is None:
            return None
        id_, name, client, state, result, error, submitted_at, updated_at = row
        value = None if result is None else json.loads(result)
        return Task(id_, name, client, state, value, error, submitted_at, updated_at)

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
        query = "SELECT digest, id, at, response FROM requests WHERE client=? AND key=?"
        with self._transaction() as db:
            oldest = now - self._keep_keys_seconds
            db.execute("DELETE FROM requests WHERE at < ?", (oldest,))
            row = db.execute(query, (client, key)).fetchone()
            if row is not None:
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
                new_id = known_id
            values = client, key, digest, new_id, now
            db.execute(
                "INSERT OR REPLACE INTO requests (client, key, digest, id, at) "
                "VALUES (?, ?, ?, ?, ?)",
                values,
            )
        return Reserved(new_id, None)

    def respond(self, client: str, key: str, response: dict[str, Any]) -> None:
        """Note what a request was answered."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET response = ? WHERE client = ? AND key = ?",
                (json.dumps(response), client, key),
            )

    def release(self, client: str, key: str, now: float) -> None:
        """Let a request that failed be made again; it keeps its id."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET at = ? WHERE client = ? AND key = ?",
                (now - _REQUEST_SECONDS, client, key),
            )

    def forget(self, client: str, key: str) -> None:
        """Forget a request that was refused."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM requests WHERE client = ? AND key = ?", (client, key)
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock, self._file.transaction() as db:
            yield db


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
