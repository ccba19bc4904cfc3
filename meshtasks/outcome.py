"""The outcome of one record: done, to be retried, or dead.

Outcomes are passed between processes, so they are plain data: an error is its class
name and text, never an exception object.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace

from meshtasks.errors import (
    InvalidMessage,
    SinkRejected,
    SinkUnavailable,
    Transient,
    text_of,
)
from meshtasks.text import masked

#: Most characters of a traceback in a dead letter. The end is kept, where the error is.
TRACEBACK_LIMIT_CHARS = 4_000
#: Most characters of an error's text; the beginning is kept.
REASON_LIMIT_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is durable; the record may be acknowledged."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A transient fault: the record is tried again later.

    Attributes:
        reason: text of the error.
        error_type: class name of the error.
        sink: name of the sink at fault, whose circuit opens; None for other faults.
        retry_after_seconds: wait that the other side requests; None without one.
        traceback: end of the traceback of an unexpected exception, else empty.
        tried: False if the fault occurred at another record and this one was not
            tried; the attempt does not count against it.
    """

    reason: str
    error_type: str = "Transient"
    sink: str | None = None
    retry_after_seconds: float | None = None
    traceback: str = ""
    tried: bool = True


@dataclass(frozen=True, slots=True)
class Dead:
    """A permanent fault: the record goes to the dead-letter queue."""

    reason: str
    error_type: str = "InvalidMessage"
    traceback: str = ""


Outcome = Done | Retry | Dead

DONE = Done()

#: Exceptions that point to a bug in a program: another attempt would fail as well.
PROGRAMMING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    NameError,
    NotImplementedError,
    TypeError,
)


def dead_of(error: InvalidMessage) -> Dead:
    """The outcome of a record that is invalid."""
    return Dead(str(error), type(error).__name__)


def outcome_of(error: BaseException) -> Retry | Dead:
    """The outcome of a record whose handling raised this exception.

    :data:`PROGRAMMING_ERRORS` are permanent. Any other exception that is no
    :class:`MeshError` counts as transient (the number of retries is bounded). The
    traceback of both is kept.
    """
    kind = type(error).__name__
    reason = (text_of(error) or kind)[:REASON_LIMIT_CHARS]
    match error:
        case InvalidMessage() | SinkRejected():
            return Dead(reason, kind)
        case SinkUnavailable():
            return retry_of(error)
        case Transient():
            return Retry(reason, kind, retry_after_seconds=error.retry_after_seconds)
        case _:
            text = masked("".join(traceback.format_exception(error)))
            fate = Dead if isinstance(error, PROGRAMMING_ERRORS) else Retry
            return fate(reason, kind, traceback=text[-TRACEBACK_LIMIT_CHARS:])


def retry_of(error: SinkUnavailable) -> Retry:
    """The outcome of a record whose sink is unavailable."""
    kind = type(error).__name__
    return Retry(
        (text_of(error) or kind)[:REASON_LIMIT_CHARS],
        kind,
        sink=error.sink or None,
        retry_after_seconds=error.retry_after_seconds,
    )


def not_tried(fault: Transient) -> Outcome:
    """The outcome of a record that was not tried because of a fault of another."""
    outcome = outcome_of(fault)
    return replace(outcome, tried=False) if isinstance(outcome, Retry) else outcome
