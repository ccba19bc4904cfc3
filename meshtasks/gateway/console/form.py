"""Fields for the members of an object, by its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui
from pydantic import BaseModel
from pydantic_core import from_json

from meshtasks.text import printable

#: Hints for fields whose text is parsed.
_WRITTEN = {"texts": "One a line.", "json": "As JSON."}
_Schema = Mapping[str, Any]


class FieldFault(ValueError):
    """The text of a field cannot be parsed; the message names the field."""


class Form:
    """Fields for the members of an object.

    Args:
        model: model of the object; its JSON schema decides the fields.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        schema = model.model_json_schema()
        required = set(schema.get("required", ()))
        self._fields = {
            name: _Field(name, _plain(each, schema), required=name in required)
            for name, each in schema.get("properties", {}).items()
        }

    def values(self) -> dict[str, Any]:
        """The values of the fields as JSON data; empty optional fields are left out.

        Raises:
            FieldFault: a field cannot be parsed.
        """
        given = {name: field.value() for name, field in self._fields.items()}
        return {name: value for name, value in given.items() if value is not None}


class _Field:
    """The field of one member."""

    def __init__(self, name: str, schema: _Schema, *, required: bool) -> None:
        self._name = name
        self._schema = schema
        self._required = required
        self._kind = _kind(schema)
        hint = printable(str(schema.get("description", "")))
        if self._kind in _WRITTEN:
            hint = f"{hint} {_WRITTEN[self._kind]}".strip()
        if examples := ", ".join(map(str, schema.get("examples", ()))):
            hint = f"{hint} Such as {examples}.".strip()
        self._element = self._made(printable(f"{name}{' *' * required}"))
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
        """The value as JSON data; None if the field is empty.

        Raises:
            FieldFault: the text cannot be parsed, or a required value is missing.
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
    """The kind of field for each member of an object."""
    schema = model.model_json_schema()
    members = schema.get("properties", {}).items()
    return {name: _kind(_plain(each, schema)) for name, each in members}


def _plain(schema: _Schema, whole: _Schema) -> _Schema:
    """The schema with references resolved, and without null as an alternative."""
    several = ("anyOf", "oneOf", "allOf")
    beside = {key: schema[key] for key in schema if key not in {"$ref", *several}}
    if reference := schema.get("$ref"):
        name = str(reference).rpartition("/")[2]
        return {**_plain(whole.get("$defs", {}).get(name, {}), whole), **beside}
    for key in several:
        others = [each for each in schema.get(key, ()) if each.get("type") != "null"]
        if len(others) == 1:
            return {**_plain(others[0], whole), **beside}
    return schema


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
