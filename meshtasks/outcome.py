"""What became of one record: done, to be retried, or dead.

Outcomes cross a process boundary, so they are plain data: an error is carried
as its class name and text, never as an exception object.
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

#: Longest traceback kept in a dead letter; its end says most.
TRACEBACK_LIMIT_CHARS = 4_000
#: Longest error text kept.
REASON_LIMIT_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is durable; the record may be acknowledged."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A transient fault: try this record again later.

    Attributes:
        reason: text of the fault.
        error_type: class name of the fault.
        sink: the sink at fault, when it is a sink (its circuit opens).
        retry_after_seconds: the wait the other side asked for.
        traceback: tail of the traceback, for faults nobody foresaw.
        tried: false when another record met the fault and this one was spared it;
            that does not count against it.
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

#: What a program raises that is wrong: trying it again changes nothing.
PROGRAMMING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    NameError,
    NotImplementedError,
    TypeError,
)


def outcome_of(error: BaseException) -> Retry | Dead:
    """The fate that an exception stands for.

    An error of programming is permanent. Any other exception that the mesh does not
    know counts as transient (retries are bounded). The traceback of both is kept.
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
    """What a sink in trouble stands for."""
    kind = type(error).__name__
    return Retry(
        (text_of(error) or kind)[:REASON_LIMIT_CHARS],
        kind,
        sink=error.sink or None,
        retry_after_seconds=error.retry_after_seconds,
    )


def not_tried(fault: Transient) -> Outcome:
    """The outcome of a record that was spared a fault which others met."""
    outcome = outcome_of(fault)
    return replace(outcome, tried=False) if isinstance(outcome, Retry) else outcome
