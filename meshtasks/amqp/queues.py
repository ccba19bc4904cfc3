"""config/queues.yaml: how each queue is consumed (batches, retries, limits)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError


class RetryPolicy(ConfigModel):
    """The retry options of one queue, named like Celery's task options.

    Attributes:
        max_retries: attempts after the first, before a message is dead.
        retry_backoff: first delay, seconds; it doubles with every attempt.
        retry_backoff_max: longest delay, seconds.
        retry_jitter: whether to draw the delay at random below the computed one.
        max_age_seconds: a message is dead if its first failure was longer ago.
    """

    max_retries: Annotated[int, Field(ge=0)] = 5
    retry_backoff: Annotated[int, Field(ge=1)] = 1
    retry_backoff_max: Annotated[int, Field(ge=1)] = 600
    retry_jitter: bool = True
    max_age_seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Retry after ``delay_seconds``; ``attempt`` is the new number of retries."""

    attempt: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No more attempts; ``because`` names the limit that was exceeded."""

    because: str


def decide(
    policy: RetryPolicy,
    *,
    attempt: int,
    age_seconds: float,
    backoff_seconds: float,
    counts: bool,
) -> TryAgain | GiveUp:
    """Decide whether to retry a message that failed with a transient error.

    Args:
        policy: retry options of its queue.
        attempt: retries that already count against the message.
        age_seconds: time since its first failure.
        backoff_seconds: delay of the next attempt.
        counts: whether this failure counts against the message. It does not if the
            circuit of the sink is open, or if other messages caused it.
    """
    if age_seconds > policy.max_age_seconds:
        return GiveUp(f"older than max_age ({policy.max_age_seconds:g} s)")
    if not counts:
        return TryAgain(attempt, backoff_seconds)
    if attempt >= policy.max_retries:
        return GiveUp(f"still failing after {policy.max_retries} retries")
    return TryAgain(attempt + 1, backoff_seconds)


def retry_level(
    levels: tuple[int, ...], delay_seconds: float, wanted_seconds: float = 0.0
) -> int:
    """The wait of the retry queue to use, seconds.

    Args:
        levels: waits of the retry queues, seconds, ascending.
        delay_seconds: our backoff: the longest level not above it is enough, else the
            shortest level.
        wanted_seconds: wait that the service requires: the shortest level not below it
            is needed, else the longest level.
    """
    ours = max((n for n in levels if n <= delay_seconds), default=levels[0])
    theirs = min((n for n in levels if n >= wanted_seconds), default=levels[-1])
    return max(ours, theirs)


#: Default of ``max_records``.
DEFAULT_MAX_RECORDS = 20_000


#: Defaults of single queues, which queues.yaml can override. A message of pending
#: points may be as large as all its records are allowed to be. The batch is small
#: because the consuming process holds two batches.
_OF_THE_PACKAGE: dict[str, dict[str, Any]] = {
    PENDING_TIMESERIES: {
        "batch": {"count": 100},
        "max_message_bytes": 16 << 20,
        "max_records": DEFAULT_MAX_RECORDS,
        "max_dead_records": DEFAULT_MAX_RECORDS,
    }
}


class BatchLimits(ConfigModel):
    """Limits of a batch. A batch goes to the pool when it reaches one of them.

    Attributes:
        count: messages.
        bytes: sum of the message bodies, bytes.
        age_ms: milliseconds since the previous batch started; while that one runs,
            since the first message of this batch arrived. So a message of an idle queue
            is handled at once. In archive queues, always since the first message.
    """

    count: Annotated[int, Field(ge=1, le=20_000)] = 2000
    bytes: Annotated[int, Field(ge=1)] = 1 << 20
    age_ms: Annotated[int, Field(ge=1, le=600_000)] = 200


class QueueSettings(ConfigModel):
    """How one queue is consumed.

    Attributes:
        max_message_bytes: a message with a larger body is dead-lettered, not decoded.
        max_records: a message with more records is dead-lettered.
        max_dead_records: if at most this many records of a message fail, each becomes a
            dead letter; if more fail, they become one dead letter.
        time_limit_seconds: a batch that runs longer is killed and retried.
    """

    batch: BatchLimits = BatchLimits()
    retry: RetryPolicy = RetryPolicy()
    max_message_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    max_records: Annotated[int, Field(ge=1)] = DEFAULT_MAX_RECORDS
    max_dead_records: Annotated[int, Field(ge=0)] = 100
    time_limit_seconds: Annotated[float, Field(gt=0)] = 300.0


class QueueEntry(QueueSettings):
    """Entry of queues.yaml for one queue.

    Attributes:
        flow: name of the flow that handles it; empty if a flow already names the queue,
            or if no worker consumes it.
        kind: kind of its records, for flows that handle several kinds.
    """

    flow: str = ""
    kind: str = ""

    @model_validator(mode="after")
    def _kind_has_a_flow(self) -> Self:
        if self.kind and not self.flow:
            raise ValueError("expected a flow beside the kind, such as flow: readings")
        return self


class QueuesConfig(ConfigModel):
    """config/queues.yaml: ``defaults``, and the values that differ for each queue."""

    defaults: QueueSettings = QueueSettings()
    queues: dict[str, QueueEntry] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        base, queues = data.get("defaults") or {}, data.get("queues") or {}
        if not isinstance(base, dict) or not isinstance(queues, dict):
            return data
        merged = {
            name: _merged(_merged(base, _OF_THE_PACKAGE.get(name, {})), changes or {})
            for name, changes in {**dict.fromkeys(_OF_THE_PACKAGE), **queues}.items()
        }
        return {**data, "queues": merged}

    def for_queue(self, name: str) -> QueueSettings:
        """Settings of one queue; ``defaults`` if it has no entry."""
        return self.queues.get(name, self.defaults)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``changes``; mappings are merged one level deep."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = {**below, **value}
        else:
            result[key] = value
    return result


def _check(queues: QueuesConfig, settings: Settings) -> Iterator[ConfigError]:
    declared = settings.read(TOPOLOGY).queue_names
    for name in queues.queues:
        if name not in declared:
            expected = "expected a queue that topology.yaml declares (queues, bindings)"
            yield settings.fault(QUEUES, f"queues.{name}", expected)


QUEUES = ConfigFile("queues.yaml", QueuesConfig, _check)
