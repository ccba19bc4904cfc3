"""Faults of a configuration that its model finds: each with its place and reason.

A validator that raises ``ValueError`` names one fault and no place. These are raised
all together, and the reader of the file finds the line of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Never

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def fault(reason: str, *loc: str | int) -> InitErrorDetails:
    """A fault at a place: names and numbers from the model downwards."""
    return InitErrorDetails(type=_error(reason), loc=loc, input=None)


def refuse(reason: str) -> Never:
    """Refuse the value at hand, from within one of pydantic's validators.

    Raises:
        PydanticCustomError: with ``reason`` as its whole message.
    """
    raise _error(reason)


def refuse_all(model: str, faults: Iterable[InitErrorDetails]) -> None:
    """Refuse a model that has faults, from within one of its validators.

    Args:
        model: name of the model.
        faults: perhaps none.

    Raises:
        ValidationError: there are some.
    """
    if found := list(faults):
        raise ValidationError.from_exception_data(model, found)


def twice(names: Iterable[str], what: str, key: str) -> Iterable[InitErrorDetails]:
    """A fault for each name that was given before.

    Args:
        names: in order of the file.
        what: they are names of.
        key: of the list they are in.
    """
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            reason = f"{what} names must be unique; twice: {name}"
            yield fault(reason, key, index, "name")
        seen.add(name)


def _error(reason: str) -> PydanticCustomError:
    # As context, since a reason may hold the braces of pydantic's templates.
    return PydanticCustomError("mesh", "{reason}", {"reason": reason})
