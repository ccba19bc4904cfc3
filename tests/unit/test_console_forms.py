"""A command's form follows from its JSON schema, also a command of another package."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from meshtasks.flows.contract import Arguments
from meshtasks.gateway.console.form import kinds_of


class _Colour(Enum):
    RED = "red"


class _Inner(Arguments):
    """Inner."""

    a: int = 1


class _Arguments(Arguments):
    """Do something.

    Attributes:
        text: what to say,
            in two lines of ``code``.
        colour: of it.
    """

    text: str
    colour: _Colour | None = None
    size: Literal["s", "m"] = "s"
    one: Literal["only"] = "only"
    count: Annotated[int, Field(ge=1)] = 1
    ratio: float | None = None
    really: bool = False
    names: tuple[str, ...] = ()
    table: dict[str, int] | None = None
    inner: _Inner = _Inner()
    several: tuple[_Inner, ...] = ()
    either: int | str = 1
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text", "text"),
        ("colour", "choice"),
        ("size", "choice"),
        ("one", "choice"),
        ("count", "number"),
        ("ratio", "number"),
        ("really", "boolean"),
        ("names", "texts"),
        ("table", "json"),
        ("inner", "json"),
        ("several", "json"),
        ("either", "json"),
        ("anything", "json"),
    ],
)
def test_every_type_has_a_field(name: str, kind: str) -> None:
    assert kinds_of(_Arguments)[name] == kind


def test_what_the_docstring_says_stands_in_the_schema() -> None:
    schema = _Arguments.model_json_schema()

    assert schema["description"] == "Do something."
    described = schema["properties"]["text"]["description"]
    assert described == "what to say, in two lines of `code`."
    assert schema["properties"]["colour"]["description"] == "of it."
