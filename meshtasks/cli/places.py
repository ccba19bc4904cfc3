"""Which place a command looks at, where it may be another than is meant."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from meshtasks.cli.terminal import say
from meshtasks.config.environment import Environment
from meshtasks.config.urls import fault_of, urls_of

#: A place, by the field of the environment that names it.
Place = Literal["archive_url", "broker_url", "state_url"]


def tell_place(env: Environment, *fields: Place) -> None:
    """Say on standard error which places a command looks at, a line each.

    Where docker-compose.yml is, and nothing else was named, the stack has places of
    its own: then say how to look there.

    Args:
        fields: that name the places.
    """
    for field in fields:
        _tell(env, field)


def _tell(env: Environment, field: Place) -> None:
    match field:
        case "archive_url":
            place, variable = env.archive_url, "MESH_ARCHIVE_URL"
            named = field in env.model_fields_set
        case "broker_url":
            place = _without_passwords(env.amqp_url)
            variable, named = "MESH_BROKER_URL", True
        case "state_url":
            from meshtasks.state.database import StateLocation  # noqa: PLC0415 - slow

            place = str(StateLocation.of(env))
            of_files = not env.state_url.get_secret_value()
            variable = "MESH_STATE_DIR" if of_files else "MESH_STATE_URL"
            named = not of_files or "state_dir" in env.model_fields_set
    text = f"{place} ({variable})"
    if not named and Path("docker-compose.yml").is_file():
        command = shlex.join(sys.argv[1:])
        text += (
            ", which is not that of the containers of docker-compose.yml; theirs: "
            f"docker compose run --rm tools {command}"
        )
    say(text, err=True)


def _without_passwords(urls: str) -> str:
    if fault_of(urls):
        return "no broker's URL"
    places = []
    for parts in map(urlsplit, urls_of(urls)):
        port = f":{parts.port}" if parts.port else ""
        places.append(f"{parts.scheme}://{parts.hostname}{port}{parts.path}")
    return ", ".join(places)
