"""Passwords of the mesh: in .env, and in the definitions that the broker loads."""

from __future__ import annotations

import json
import re
import secrets as random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from meshtasks.amqp.accounts import DEVICE_PREFIX, definitions_with_accounts, rights_of
from meshtasks.amqp.topology import Topology
from meshtasks.cli.terminal import EXIT_USAGE, fail
from meshtasks.config.environment import ENV_FILE, env_file_values
from meshtasks.config.private_files import (
    make_private_directory,
    private_opener,
    tighten,
)
from meshtasks.config.urls import urls_of

VHOST = "mesh"
#: Definitions of the broker, which docker-compose.yml mounts.
DEFINITIONS = Path(".mesh/compose/rabbitmq.json")
#: Name of a device; part of the name of an account and of a variable.
_DEVICE_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
#: Secrets of the services of docker-compose.yml, except accounts of the broker.
STACK_SECRETS = (
    "INFLUX_ADMIN_TOKEN",
    "INFLUX_ADMIN_PASSWORD",
    "MESH_MINIO_ACCESS_KEY",
    "MESH_MINIO_SECRET_KEY",
    "MESH_GARAGE_ADMIN_TOKEN",
    "GARAGE_RPC_SECRET",
    "MESH_FLOWER_PASSWORD",
    "MESH_METRICS_TOKEN",
    "GRAFANA_ADMIN_PASSWORD",
    "VICTORIAMETRICS_DELETE_KEY",
    "N8N_ENCRYPTION_KEY",
    "MESH_SECRETS__N8N",
)
#: Secrets that Garage requires in hexadecimal, with their length in bytes.
_HEX_BYTES = {"MESH_MINIO_SECRET_KEY": 32, "GARAGE_RPC_SECRET": 32}
_HEAD = """\
# Written by `meshtasks secrets`, which adds missing variables and does not change the
# others. docker-compose.yml reads its passwords from this file; commands that run in
# this directory read the MESH_… variables. Keep the file secret.
"""


class Made(NamedTuple):
    """Numbers of new and kept variables, and of accounts of the broker."""

    new: int
    kept: int
    accounts: int


def make_secrets(
    topology: Topology,
    names: Iterable[str],
    env_file: Path = ENV_FILE,
    definitions: Path = DEFINITIONS,
    new_devices: Iterable[str] = (),
) -> Made:
    """Add missing passwords to .env, and write the definitions of the broker.

    Args:
        topology: topology of the mesh, which determines the permissions of accounts.
        names: variables that need a password, except those of accounts.
        env_file: file of the variables; existing values are kept.
        definitions: file that the broker loads.
        new_devices: devices that get an account, besides those that have one.

    Raises:
        typer.Exit: the name of a device is invalid.
        OSError: a file cannot be written.
    """
    known = env_file_values(env_file)
    devices = sorted({*new_devices, *devices_in(known)})
    for name in devices:
        if not _DEVICE_NAME.fullmatch(name):
            expected = "small letters, digits and single underscores, such as attic_1"
            fail(f"--device {name!r}: expected {expected}", EXIT_USAGE)
    roles = rights_of(topology, devices)
    wanted = _wanted(sorted(roles), known, names)
    added = add_missing(env_file, wanted)
    write_definitions(definitions, accounts_of(topology, wanted | known, devices))
    return Made(added, len(known), len(roles))


def write_definitions(definitions: Path, accounts: Mapping[str, Any]) -> None:
    """Write the file with the accounts, which the broker loads when it starts.

    Raises:
        OSError: the file cannot be written.
    """
    make_private_directory(definitions.parent)
    if definitions == DEFINITIONS:
        tighten(definitions.parent)  # a directory that the user named may be shared
    # Write in place: a container that mounts a single file would not see a new one
    # before it is recreated.
    text = json.dumps(accounts, indent=2)
    definitions.write_text(text + "\n", encoding="utf-8")
    # The container of the broker reads the file with another uid, through a bind mount
    # that Docker makes as root. So the directory protects the hashes, not the file.
    definitions.chmod(0o644)


def accounts_of(
    topology: Topology, values: Mapping[str, str], devices: Iterable[str]
) -> dict[str, Any]:
    """The definitions of the broker, with the passwords of these variables."""
    names = sorted(devices)
    passwords = {role: values[variable_of(role)] for role in rights_of(topology, names)}
    return definitions_with_accounts(topology, VHOST, passwords, names)


def stack_settings(env_file: Path) -> dict[str, str]:
    """Variables for docker-compose.yml beside ``env_file`` that are not secret.

    Without a clone the image cannot be built, so it is used or pulled (MESH_IMAGE).
    MQTT without TLS is only for this machine, except in installations that had
    passwords for devices before TLS was introduced.
    """
    settings = {"COMPOSE_PROFILES": "full", "MESH_MQTT_ADDRESS": "127.0.0.1"}
    if variable_of("devices") in env_file_values(env_file):
        settings["MESH_MQTT_ADDRESS"] = "0.0.0.0"  # noqa: S104 - as before TLS
    if not env_file.with_name("Dockerfile").exists():
        settings["MESH_PULL_POLICY"] = "missing"
    return settings


def add_missing(env_file: Path, wanted: Mapping[str, str]) -> int:
    """Add variables that the file lacks, and return their number.

    Existing lines are not changed. Only the owner may read the file afterwards.
    """
    known = env_file_values(env_file)
    missing = {name: value for name, value in wanted.items() if name not in known}
    with open(env_file, "a+b", opener=private_opener) as file:
        file.seek(0)
        before = file.read()
        lines = [] if before else [_HEAD]
        if before and not before.endswith(b"\n"):
            lines.append("\n")  # an edited last line may have no line break
        lines += [f"{name}={value}\n" for name, value in missing.items()]
        file.write("".join(lines).encode())
    return len(missing)


def _wanted(
    roles: list[str], known: Mapping[str, str], names: Iterable[str]
) -> dict[str, str]:
    """A new value for every variable that is needed."""
    made = {variable_of(role): new_secret() for role in roles}
    operator = known.get(variable_of("operator"), made[variable_of("operator")])
    if "INFLUX_ADMIN_TOKEN" in names and (token := known.get("MESH_INFLUX_TOKEN")):
        made["INFLUX_ADMIN_TOKEN"] = token  # its earlier name
    return {
        # For programs on this machine, outside of containers.
        "MESH_BROKER_URL": f"amqp://operator:{operator}@127.0.0.1:5672/{VHOST}",
        "MESH_FLOWER_USER": "mesh",
        "MESH_API_TOKENS": f"n8n:publish+trigger:{new_secret()},"
        f"owner:operate:{new_secret()}",
        **{name: new_secret(name) for name in names},
        **made,
    }


def devices_in(known: Mapping[str, str]) -> list[str]:
    """Names of the devices that have a password."""
    prefix = variable_of(DEVICE_PREFIX)
    return [
        name.removeprefix(prefix).lower() for name in known if name.startswith(prefix)
    ]


def variable_of(role: str) -> str:
    """The variable with the password of a role's account."""
    return f"MESH_BROKER_PASSWORD_{role.upper()}"


def new_secret(name: str = "") -> str:
    """A new secret in the format that the variable requires."""
    if name == "MESH_MINIO_ACCESS_KEY":
        return f"GK{random.token_hex(12)}"  # the format of Garage's keys
    if size := _HEX_BYTES.get(name):
        return random.token_hex(size)
    return random.token_urlsafe(24)


def as_account(broker_url: str, account: str, password: str) -> str:
    """Replace the account in an AMQP URL, or in those of a cluster's nodes."""
    login = f"{quote(account, safe='')}:{quote(password, safe='')}"
    return ";".join(
        (parts := urlsplit(url))
        ._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}")
        .geturl()
        for url in urls_of(broker_url)
    )
