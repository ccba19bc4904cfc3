"""Matchers, written as Alertmanager's: ``name=value``, ``!=``, ``=~`` and ``!~``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator
from typing_extensions import override

_FORM = re.compile(r"\s*([^=!~\s\"]+)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on one label. A missing label counts as empty.

    Attributes:
        name: of the label.
        operator: ``=`` equal, ``!=`` not equal, ``=~`` the whole value matches the
            regular expression, ``!~`` it does not.
        value: to compare with.
    """

    name: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the condition."""
        found = labels.get(self.name, "")
        if self.operator.endswith("~"):
            meets = _compiled(self.value).fullmatch(found) is not None
        else:
            meets = found == self.value
        return meets is not self.operator.startswith("!")

    @override
    def __str__(self) -> str:
        value = self.value
        is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
        if is_quoted or value != value.strip():  # else it would be read as less
            value = f'"{value}"'
        return f"{self.name}{self.operator}{value}"


def parse_matcher(text: object) -> Matcher:
    """A matcher from its text; the value may stand in double quotes.

    Raises:
        ValueError: it is none, or its regular expression is not valid.
    """
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        message = (
            "expected a matcher such as severity=critical, location!=attic or "
            f"source=~rules.*, got {text!r}"
        )
        raise ValueError(message)
    name, operator, value = form.groups()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if operator.endswith("~"):
        try:
            _compiled(value)
        except re.error as error:
            message = f"{value} is not a regular expression: {error}"
            raise ValueError(message) from error
    return Matcher(name, operator, value)


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether the labels meet every condition; true without conditions."""
    return all(matcher.matches(labels) for matcher in matchers)


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


#: A matcher in a model; its text on the outside.
MatcherField = Annotated[Matcher, PlainValidator(parse_matcher), PlainSerializer(str)]
