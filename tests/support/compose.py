"""docker-compose.yml as Docker Compose reads it, as far as the tests look at it.

Where Docker Compose is, a test holds this against it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

_VARIABLE = re.compile(r"\$(\$|\{(\w+)(?::?([-?])([^}]*))?\})")


class MissingVariable(Exception):
    """A variable that has to be set is not; the text is the file's own."""


def read_services(project: Path) -> dict[str, Any]:
    """The services of a project, of every profile: variables replaced, ports and
    volumes in their long form."""
    text = (project / "docker-compose.yml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    values = dotenv_values(project / ".env")
    services: dict[str, Any] = _filled(document["services"], values)
    for service in services.values():
        if isinstance(service.get("command"), str):
            service["command"] = shlex.split(service["command"])
        for key, long in (("ports", _port), ("volumes", _volume)):
            if key in service:
                service[key] = [long(each, project) for each in service[key]]
    return services


def _filled(value: Any, values: Mapping[str, str | None]) -> Any:
    match value:
        case dict():
            return {key: _filled(each, values) for key, each in value.items()}
        case list():
            return [_filled(each, values) for each in value]
        case str():
            return _VARIABLE.sub(lambda found: _value(found, values), value)
        case _:
            return value


def _value(found: re.Match[str], values: Mapping[str, str | None]) -> str:
    if found[1] == "$":
        return "$"
    _, name, otherwise, text = found.groups()
    if value := values.get(name):
        return value
    if otherwise == "?":
        raise MissingVariable(text)
    return text or ""


def _port(given: Any, _project: Path) -> dict[str, Any]:
    if isinstance(given, dict):
        return {**given, "published": str(given["published"])}
    *host, published, target = str(given).split(":")
    long = {"published": published, "target": int(target.partition("/")[0])}
    return {**long, "host_ip": host[0]} if host else long


def _volume(given: Any, project: Path) -> dict[str, Any]:
    if isinstance(given, dict):
        source = str(given.get("source", ""))
        long = dict(given)
    else:
        source, target, *_ = given.split(":")
        is_path = source.startswith((".", "/", "~"))
        long = {"type": "bind" if is_path else "volume", "target": target}
    if long["type"] == "bind":
        source = str((project / source).resolve())
    return {**long, "source": source}
