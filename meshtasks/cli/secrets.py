"""``meshtasks secrets``: passwords for ``docker compose``, made once and kept."""

from __future__ import annotations

import json
import os
import re
import secrets as random
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from meshtasks.amqp.accounts import DEVICE_PREFIX, definitions_with_accounts, rights_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import fail, say
from meshtasks.config.private_files import make_private_directory, tighten
from meshtasks.config.settings import load_settings

VHOST = "mesh"

_EX_USAGE = 2
#: docker-compose.yml mounts it. Its directory holds nothing else.
_DEFINITIONS = Path(".mesh/compose/rabbitmq.json")
#: It becomes part of the account's name and of a variable's.
_DEVICE_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

_HEAD = """\
# Made by `make secrets`, which adds what is missing and changes nothing that is here.
# docker-compose.yml takes its passwords from this file, and so do commands that are
# run here (MESH_…). Keep it to yourself.
"""


def secrets(
    env_file: Annotated[
        Path, typer.Option("--env-file", help="File of the passwords.")
    ] = Path(".env"),
    definitions: Annotated[
        Path,
        typer.Option(help="Definitions that the broker loads: accounts and topology."),
    ] = _DEFINITIONS,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Make an account device_NAME for one MQTT device or site, beside "
            "the account `devices` that all may share; repeat it for more. It is kept "
            "as long as its password is in the file.",
        ),
    ] = None,
) -> None:
    """Make the passwords that docker-compose.yml needs, and the broker's accounts.

    Passwords that the file has are kept, so that running it again is harmless; do so
    after changing config/topology.yaml. To change a password, remove its line.

    Exit codes: 0; 2 a name of a device is none; 78 the configuration cannot be used.
    """
    topology = load_settings().read(TOPOLOGY)
    known = {
        name: value
        for name, value in dotenv_values(env_file).items()
        if value is not None
    }
    devices = sorted({*(device or ()), *_devices_in(known)})
    for name in devices:
        if not _DEVICE_NAME.fullmatch(name):
            expected = "small letters, digits and single underscores, such as attic_1"
            fail(f"--device {name!r}: expected {expected}", _EX_USAGE)
    rights = rights_of(topology, devices)
    wanted = _wanted(sorted(rights), known)
    missing = {name: value for name, value in wanted.items() if name not in known}
    _write_private(env_file, missing)
    passwords = {role: (wanted | known)[_variable(role)] for role in rights}
    make_private_directory(definitions.parent)
    if definitions == _DEFINITIONS:
        tighten(definitions.parent)  # one that is named may be shared
    accounts = definitions_with_accounts(topology, VHOST, passwords, devices)
    text = json.dumps(accounts, indent=2)
    definitions.write_text(text + "\n", encoding="utf-8")
    # The broker's container reads it under another uid, through a bind mount that
    # Docker makes as root. So the directory keeps the hashes from others, not the file.
    definitions.chmod(0o644)
    say(
        f"{env_file}: {len(missing)} secrets made, {len(known)} kept\n"
        f"{definitions}: {len(passwords)} accounts\n"
        "next: docker compose up -d"
    )


def _wanted(roles: list[str], known: dict[str, str]) -> dict[str, str]:
    """Every variable with a new value."""
    made = {_variable(role): _new() for role in roles}
    operator = known.get(_variable("operator"), made[_variable("operator")])
    names = (
        "MESH_INFLUX_TOKEN",
        "INFLUX_ADMIN_PASSWORD",
        "MESH_MINIO_ACCESS_KEY",
        "MESH_MINIO_SECRET_KEY",
        "MESH_FLOWER_PASSWORD",
        "GRAFANA_ADMIN_PASSWORD",
        "VICTORIAMETRICS_DELETE_KEY",
        "N8N_ENCRYPTION_KEY",
        "MESH_SECRETS__N8N",
    )
    return {
        # What is run on this machine, outside of any container.
        "MESH_BROKER_URL": f"amqp://operator:{operator}@127.0.0.1:5672/{VHOST}",
        "MESH_FLOWER_USER": "mesh",
        "MESH_API_TOKENS": f"n8n:publish+trigger:{_new()},owner:operate:{_new()}",
        **made,
        **{name: _new() for name in names},
    }


def _devices_in(known: dict[str, str]) -> list[str]:
    """Names of the devices whose passwords were made before."""
    prefix = _variable(DEVICE_PREFIX)
    return [
        name.removeprefix(prefix).lower() for name in known if name.startswith(prefix)
    ]


def _variable(role: str) -> str:
    return f"MESH_BROKER_PASSWORD_{role.upper()}"


def _new() -> str:
    return random.token_urlsafe(24)


def _write_private(file: Path, missing: dict[str, str]) -> None:
    """Add lines to a file that only its owner may read."""
    is_new = not file.exists()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as lines:
        os.fchmod(lines.fileno(), 0o600)
        lines.write(_HEAD if is_new else "")
        lines.writelines(f"{name}={value}\n" for name, value in missing.items())
