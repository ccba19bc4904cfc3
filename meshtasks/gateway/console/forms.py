"""A form made from a JSON schema: one field for each argument of a command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui
from pydantic import BaseModel
from pydantic_core import from_json

from meshtasks.text import printable

_Schema = Mapping[str, Any]
#: How what is typed is read.
_WRITTEN = {"texts": "One a line.", "json": "As JSON."}


class FieldFault(ValueError):
    """What was typed cannot be read; the text names the field."""


class Form:
    """Fields for the members of an object.

    Args:
        model: of the object; its JSON schema says what the fields are.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        schema = model.model_json_schema()
        required = set(schema.get("required", ()))
        self._fields = {
            name: _Field(name, _plain(each, schema), required=name in required)
            for name, each in schema.get("properties", {}).items()
        }

    def build(self) -> None:
        """Fill the page."""
        for field in self._fields.values():
            field.build()

    def values(self) -> dict[str, Any]:
        """What was filled in, as JSON; what was not is left out.

        Raises:
            FieldFault: it cannot be read.
        """
        given = {name: field.value() for name, field in self._fields.items()}
        return {name: value for name, value in given.items() if value is not None}


class _Field:
    """One member.

    Args:
        name: of the member.
        schema: of it, without references and null.
        required: it must be filled in.
    """

    def __init__(self, name: str, schema: _Schema, *, required: bool) -> None:
        self._name = name
        self._schema = schema
        self._required = required
        self._kind = _kind(schema)
        self._element: Any = None

    def build(self) -> None:
        """Fill the page."""
        hint = printable(str(self._schema.get("description", "")))
        if self._kind in _WRITTEN:
            hint = f"{hint} {_WRITTEN[self._kind]}".strip()
        if examples := ", ".join(map(str, self._schema.get("examples", ()))):
            hint = f"{hint} Such as {examples}.".strip()
        self._element = self._made(printable(f"{self._name}{' *' * self._required}"))
        self._element.classes("w-full")
        if hint:
            ui.label(hint).classes("mesh-dim mesh-wrap q-mb-sm")

    def _made(self, label: str) -> Any:
        schema, default = self._schema, self._schema.get("default")
        match self._kind:
            case "choice":
                options = list(schema.get("enum", ()) or [schema["const"]])
                chosen = ui.select(options, value=default, label=label)
                return chosen if self._required else chosen.props("clearable")
            case "boolean":
                return ui.switch(label, value=bool(default))
            case "number":
                return ui.number(label, value=default)
            case "text":
                return ui.input(label, value=default or "")
            case "texts":
                text = "\n".join(default or ())
            case _:
                text = "" if default is None else json.dumps(default)
        return ui.textarea(label, value=text).props("autogrow outlined")

    def value(self) -> Any:
        """What was filled in, as JSON; None is nothing.

        Raises:
            FieldFault: it cannot be read.
        """
        given = self._element.value
        if self._kind in {"text", "texts", "json"}:
            given = (given or "").strip() if self._kind != "text" else given
        if given is None or given == "":
            if self._required and self._kind != "text":
                message = f"{self._name} is missing"
                raise FieldFault(message)
            return "" if self._required else None
        match self._kind:
            case "number" if self._schema.get("type") == "integer":
                return int(given) if float(given).is_integer() else given
            case "texts":
                return [line.strip() for line in given.splitlines() if line.strip()]
            case "json":
                try:
                    return from_json(given, allow_inf_nan=False)
                except ValueError as error:
                    message = f"{self._name} is not JSON: {error}"
                    raise FieldFault(message) from error
            case _:
                return given


def kinds_of(model: type[BaseModel]) -> dict[str, str]:
    """What kind of field each member of an object has."""
    schema = model.model_json_schema()
    members = schema.get("properties", {}).items()
    return {name: _kind(_plain(each, schema)) for name, each in members}


def _plain(schema: _Schema, whole: _Schema) -> _Schema:
    """A schema without what refers to others, and without null beside another."""
    if reference := schema.get("$ref"):
        name = str(reference).rpartition("/")[2]
        return {**_plain(whole.get("$defs", {}).get(name, {}), whole), **_own(schema)}
    for key in ("anyOf", "oneOf", "allOf"):
        others = [each for each in schema.get(key, ()) if each.get("type") != "null"]
        if len(others) == 1:
            return {**_plain(others[0], whole), **_own(schema)}
    return schema


def _own(schema: _Schema) -> _Schema:
    """What a schema says beside what it refers to."""
    passed = {"$ref", "anyOf", "oneOf", "allOf"}
    return {key: value for key, value in schema.items() if key not in passed}


def _kind(schema: _Schema) -> str:
    if "enum" in schema or "const" in schema:
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "boolean"
        case "integer" | "number":
            return "number"
        case "string":
            return "text"
        case "array" if schema.get("items", {}).get("type") == "string":
            return "texts"
        case _:
            return "json"
