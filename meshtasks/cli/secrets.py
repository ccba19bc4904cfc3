"""``meshtasks secrets``: passwords for ``docker compose``, made once and kept."""

from __future__ import annotations

import json
import re
import secrets as random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from meshtasks.amqp.accounts import DEVICE_PREFIX, definitions_with_accounts, rights_of
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.terminal import fail, say
from meshtasks.config.private_files import (
    make_private_directory,
    private_opener,
    tighten,
)
from meshtasks.config.settings import ENV_FILE, env_file_values, load_settings

VHOST = "mesh"

_EX_USAGE = 2
#: docker-compose.yml mounts it. Its directory holds nothing else.
DEFINITIONS = Path(".mesh/compose/rabbitmq.json")
#: It becomes part of the account's name and of a variable's.
_DEVICE_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

#: What the services of docker-compose.yml ask for beside the accounts of the broker.
STACK_SECRETS = (
    "MESH_INFLUX_TOKEN",
    "INFLUX_ADMIN_PASSWORD",
    "MESH_MINIO_ACCESS_KEY",
    "MESH_MINIO_SECRET_KEY",
    "MESH_GARAGE_ADMIN_TOKEN",
    "GARAGE_RPC_SECRET",
    "MESH_FLOWER_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
    "VICTORIAMETRICS_DELETE_KEY",
    "N8N_ENCRYPTION_KEY",
    "MESH_SECRETS__N8N",
)

#: Garage takes secrets in hexadecimal, of so many bytes.
_HEX_BYTES = {"MESH_MINIO_SECRET_KEY": 32, "GARAGE_RPC_SECRET": 32}

_HEAD = """\
# Made by `meshtasks secrets`, which adds what is missing and changes nothing that is
# here. docker-compose.yml takes its passwords from this file, and so do commands that
# are run here (MESH_…). Keep it to yourself.
"""


class Made(NamedTuple):
    """What :func:`make_secrets` did: secrets made and kept, accounts of the broker."""

    new: int
    kept: int
    accounts: int


def secrets(
    env_file: Annotated[
        Path, typer.Option("--env-file", help="File of the passwords.")
    ] = ENV_FILE,
    definitions: Annotated[
        Path,
        typer.Option(help="Definitions that the broker loads: accounts and topology."),
    ] = DEFINITIONS,
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
    made = make_secrets(topology, STACK_SECRETS, env_file, definitions, device or ())
    add_missing(env_file, stack_settings(env_file.parent))
    from meshtasks.cli import units  # noqa: PLC0415 - it needs this module

    units.refresh_roles(env_file)
    say(
        f"{env_file}: {made.new} secrets made, {made.kept} kept\n"
        f"{definitions}: {made.accounts} accounts\n"
        "next: docker compose up -d"
    )


def make_secrets(
    topology: Topology,
    names: Iterable[str],
    env_file: Path = ENV_FILE,
    definitions: Path = DEFINITIONS,
    new_devices: Iterable[str] = (),
) -> Made:
    """Add what is missing to the file of the passwords, and write the definitions.

    Args:
        topology: of the mesh; the accounts may do what it asks for.
        names: of the variables beside the accounts' that get a new password.
        env_file: what it has is kept.
        definitions: for the broker to load.
        new_devices: see :func:`secrets`.

    Raises:
        typer.Exit: a name of a device is none.
        OSError: a file cannot be written.
    """
    known = env_file_values(env_file)
    devices = sorted({*new_devices, *_devices_in(known)})
    for name in devices:
        if not _DEVICE_NAME.fullmatch(name):
            expected = "small letters, digits and single underscores, such as attic_1"
            fail(f"--device {name!r}: expected {expected}", _EX_USAGE)
    rights = rights_of(topology, devices)
    wanted = _wanted(sorted(rights), known, names)
    added = add_missing(env_file, wanted)
    passwords = {role: (wanted | known)[variable_of(role)] for role in rights}
    make_private_directory(definitions.parent)
    if definitions == DEFINITIONS:
        tighten(definitions.parent)  # one that is named may be shared
    accounts = definitions_with_accounts(topology, VHOST, passwords, devices)
    text = json.dumps(accounts, indent=2)
    definitions.write_text(text + "\n", encoding="utf-8")
    # The broker's container reads it under another uid, through a bind mount that
    # Docker makes as root. So the directory keeps the hashes from others, not the file.
    definitions.chmod(0o644)
    return Made(added, len(known), len(passwords))


def stack_settings(directory: Path) -> dict[str, str]:
    """What docker-compose.yml in a directory asks for and is no secret.

    Without a clone there is nothing to make the image from: it is taken as it is
    there, or from where MESH_IMAGE says.
    """
    policy = (
        {} if (directory / "Dockerfile").exists() else {"MESH_PULL_POLICY": "missing"}
    )
    return {"COMPOSE_PROFILES": "full", **policy}


def add_missing(env_file: Path, wanted: Mapping[str, str]) -> int:
    """Add variables that the file does not have yet; how many were added.

    Only its owner may read the file afterwards. Nothing that is in it is changed.
    """
    known = env_file_values(env_file)
    missing = {name: value for name, value in wanted.items() if name not in known}
    with open(env_file, "a+b", opener=private_opener) as file:
        file.seek(0)
        before = file.read()
        lines = [] if before else [_HEAD]
        if before and not before.endswith(b"\n"):
            lines.append("\n")  # a hand-edited last line may lack its end
        lines += [f"{name}={value}\n" for name, value in missing.items()]
        file.write("".join(lines).encode())
    return len(missing)


def _wanted(
    roles: list[str], known: Mapping[str, str], names: Iterable[str]
) -> dict[str, str]:
    """Every variable with a new value."""
    made = {variable_of(role): _new() for role in roles}
    operator = known.get(variable_of("operator"), made[variable_of("operator")])
    return {
        # What is run on this machine, outside of any container.
        "MESH_BROKER_URL": f"amqp://operator:{operator}@127.0.0.1:5672/{VHOST}",
        "MESH_FLOWER_USER": "mesh",
        "MESH_API_TOKENS": f"n8n:publish+trigger:{_new()},owner:operate:{_new()}",
        **made,
        **{name: _new(name) for name in names},
    }


def _devices_in(known: dict[str, str]) -> list[str]:
    """Names of the devices whose passwords were made before."""
    prefix = variable_of(DEVICE_PREFIX)
    return [
        name.removeprefix(prefix).lower() for name in known if name.startswith(prefix)
    ]


def variable_of(role: str) -> str:
    """The variable that has the password of a role's account."""
    return f"MESH_BROKER_PASSWORD_{role.upper()}"


def _new(name: str = "") -> str:
    """A secret of the form that the variable needs."""
    if name == "MESH_MINIO_ACCESS_KEY":
        return f"GK{random.token_hex(12)}"  # as Garage makes them
    if size := _HEX_BYTES.get(name):
        return random.token_hex(size)
    return random.token_urlsafe(24)
