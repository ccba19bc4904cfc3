"""How queues are consumed: batches, retries, limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshtasks.amqp.retry import RetryPolicy

#: Records of one message, unless queues.yaml says else.
DEFAULT_MAX_RECORDS = 20_000


class BatchLimits(BaseModel):
    """A batch is handed on as soon as one of these is reached.

    Attributes:
        count: messages.
        bytes: sum of the message bodies.
        age_ms: milliseconds since the batch's first message arrived.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1, le=20_000)] = 2000
    bytes: Annotated[int, Field(ge=1)] = 1 << 20
    age_ms: Annotated[int, Field(ge=1, le=600_000)] = 200


class QueueSettings(BaseModel):
    """How one queue is consumed.

    Attributes:
        max_message_bytes: a larger body is dead-lettered unread.
        max_records: a message of more records is a dead letter.
        max_dead_records: records of one message that become dead letters of their
            own; if more of them fail, they become one.
        time_limit_seconds: a batch that runs longer is killed and retried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: BatchLimits = BatchLimits()
    retry: RetryPolicy = RetryPolicy()
    max_message_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    max_records: Annotated[int, Field(ge=1)] = DEFAULT_MAX_RECORDS
    max_dead_records: Annotated[int, Field(ge=0)] = 100
    time_limit_seconds: Annotated[float, Field(gt=0)] = 300.0


class QueuesConfig(BaseModel):
    """config/queues.yaml: ``defaults`` and what each queue changes of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    defaults: QueueSettings = QueueSettings()
    queues: dict[str, QueueSettings] = {}

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("queues"), dict):
            return data
        base = data.get("defaults") or {}
        merged = {
            name: _merged(base, changes or {})
            for name, changes in data["queues"].items()
        }
        return {**data, "queues": merged}

    def for_queue(self, name: str) -> QueueSettings:
        """Settings of one queue; the defaults where it has none of its own."""
        return self.queues.get(name, self.defaults)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, one level deep."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = {**below, **value}
        else:
            result[key] = value
    return result
