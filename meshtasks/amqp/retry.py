"""When to try again, and when to give up. A decision only: it never sleeps or
publishes (as procrastinate's retry strategies do)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class RetryPolicy(BaseModel):
    """The retry options of one queue, named as Celery's task options.

    Attributes:
        max_retries: attempts after the first before a message is dead.
        retry_backoff: first delay, seconds; it doubles with every attempt.
        retry_backoff_max: longest delay, seconds.
        retry_jitter: draw the delay at random below the computed one.
        max_age_seconds: a message retried for longer than this is dead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_retries: Annotated[int, Field(ge=0)] = 5
    retry_backoff: Annotated[int, Field(ge=1)] = 1
    retry_backoff_max: Annotated[int, Field(ge=1)] = 600
    retry_jitter: bool = True
    max_age_seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Try again after ``delay_seconds``, counted as attempt ``attempt``."""

    attempt: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No more attempts; ``because`` says which limit was reached."""

    because: str


def decide(
    policy: RetryPolicy,
    *,
    attempt: int,
    age_seconds: float,
    backoff_seconds: float,
    counts: bool,
) -> TryAgain | GiveUp:
    """Retry or give up on a message that just failed for a transient cause.

    Args:
        attempt: retries that already count against the message.
        age_seconds: time since its first failure.
        backoff_seconds: the delay for the next attempt.
        counts: false when the fault is a sink whose circuit is open, or one that
            other messages met; it is not held against this one.
    """
    if age_seconds > policy.max_age_seconds:
        return GiveUp(f"older than max_age ({policy.max_age_seconds:g} s)")
    if not counts:
        return TryAgain(attempt, backoff_seconds)
    if attempt >= policy.max_retries:
        return GiveUp(f"still failing after {policy.max_retries} retries")
    return TryAgain(attempt + 1, backoff_seconds)


def retry_level(
    levels: tuple[int, ...], delay_seconds: float, asked_seconds: float = 0.0
) -> int:
    """The retry queue to use.

    Args:
        levels: seconds of the retry queues, ascending.
        delay_seconds: our own backoff; the longest level not above it will do,
            else the shortest.
        asked_seconds: the wait that the other side asked for; the shortest level
            not below it is needed, else the longest.
    """
    ours = max((each for each in levels if each <= delay_seconds), default=levels[0])
    theirs = min((each for each in levels if each >= asked_seconds), default=levels[-1])
    return max(ours, theirs)
