"""``meshtasks secrets``: passwords for ``docker compose``, generated once and kept."""

from __future__ import annotations

import io
import json
import re
import secrets as random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, urlsplit

import typer
import yaml
from dotenv.parser import parse_stream
from urllib3 import make_headers

from meshtasks.amqp.accounts import (
    ADMIN,
    DEVICE_PREFIX,
    definitions_with_accounts,
    rights_of,
)
from meshtasks.amqp.management import import_accounts
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.certificates import make_certificates
from meshtasks.cli.influxdb import InfluxOwner, call
from meshtasks.cli.terminal import EXIT_USAGE, fail, say
from meshtasks.config.environment import ENV_FILE, env_file_values
from meshtasks.config.private_files import (
    make_private_directory,
    private_opener,
    replace_private,
    share,
    tighten,
)
from meshtasks.config.settings import load_settings
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, Transient

VHOST = "mesh"

#: Definitions of the broker, which docker-compose.yml mounts.
DEFINITIONS = Path(".mesh/compose/rabbitmq.json")
#: Directory that it mounts, too. In a clone made with umask 077, containers cannot read
#: it.
CONFIG = Path("config")
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

#: Secrets that services store themselves; they read their environment only at their
#: first start.
_ELSEWHERE = frozenset(
    {"INFLUX_ADMIN_TOKEN", "INFLUX_ADMIN_PASSWORD", "GRAFANA_ADMIN_PASSWORD"}
)

#: The two parts of the key of the archive's store, which change together.
_KEY = frozenset({"MESH_MINIO_ACCESS_KEY", "MESH_MINIO_SECRET_KEY"})
#: Secrets that cannot be changed, and why.
_KEPT = {
    "N8N_ENCRYPTION_KEY": "n8n could not read the credentials that it keeps any more",
}
#: An entry ``name:scopes:token``; the group is name and scopes, which users choose.
_API_TOKEN = re.compile(r"([^\s,:]+:[^\s,:]+:)[^\s,]+")

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


def secrets(
    env_file: Annotated[
        Path, typer.Option("--env-file", help="File with the passwords.")
    ] = ENV_FILE,
    definitions: Annotated[
        Path,
        typer.Option(help="Definitions file of the broker: accounts and topology."),
    ] = DEFINITIONS,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Create an account device_NAME for one MQTT device or site, in "
            "addition to the shared account `devices`. Can be repeated. The "
            "account is kept as long as its password is in the file.",
        ),
    ] = None,
    rotate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE",
            help="Replace the password of a variable of the file, or of `all`, "
            "wherever it is used. Can be repeated.",
        ),
    ] = None,
    management_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the broker's management API."),
    ] = None,
    influx_url: Annotated[
        str, typer.Option(metavar="URL", help="URL of InfluxDB, for --rotate.")
    ] = "http://127.0.0.1:8086",
    grafana_url: Annotated[
        str, typer.Option(metavar="URL", help="URL of Grafana, for --rotate.")
    ] = "http://127.0.0.1:3000",
) -> None:
    """Generate the passwords for docker-compose.yml and the accounts of the broker.

    Existing passwords are kept, so the command can be repeated. Run it again after you
    change config/topology.yaml, or delete the line of a device. A running broker gets
    the accounts at once; only connections of deleted devices are closed. Certificates
    that are missing, or expire soon, are created (`meshtasks certificates`).

    Exit codes: 0; 2 wrong usage; 69 a service does not answer; 78 bad configuration, or
    a service rejects the old password.
    """
    topology = load_settings().read(TOPOLOGY)
    settings = stack_settings(env_file)
    # Read them before new ones are made, which a running broker does not know.
    before = env_file_values(env_file)
    chosen = _chosen(rotate or (), before)
    made = make_secrets(topology, STACK_SECRETS, env_file, definitions, device or ())
    add_missing(env_file, settings)
    from meshtasks.cli import units  # noqa: PLC0415 - it needs this module

    if definitions == DEFINITIONS:
        say(make_certificates())

    say(f"{env_file}: {made.new} secrets made, {made.kept} kept")
    _rotate_elsewhere(env_file, chosen, influx_url, grafana_url)
    known = env_file_values(env_file)
    new = {name: _replacement(name, known[name]) for name in chosen - _ELSEWHERE}
    accounts = _accounts(topology, known | new, _devices_in(known))
    # The broker first: if it refuses, the passwords in the files are still valid.
    said = _give_to_broker(accounts, definitions, before, management_url)
    say(f"broker: {said}")
    if new:
        operator = variable_of("operator")
        if operator in new and "MESH_BROKER_URL" in known:
            url = as_account(known["MESH_BROKER_URL"], "operator", new[operator])
            new["MESH_BROKER_URL"] = url
        _replace_values(env_file, new)
        _write_definitions(definitions, accounts)
    units.refresh_roles(env_file)
    share(CONFIG)
    say(f"{definitions}: {made.accounts} accounts\nnext: docker compose up -d")
    if chosen:
        say(f"changed: {', '.join(sorted(chosen))}")
    if services := _services_with(chosen, env_file.with_name("docker-compose.yml")):
        say(
            f"That starts these again, with the new passwords: {', '.join(services)}. "
            "Devices, producers elsewhere and callers of the gateway need theirs."
        )


def _chosen(names: Iterable[str], known: Mapping[str, str]) -> set[str]:
    """The variables that get a new value; ends the command for an invalid name."""
    ours = {*STACK_SECRETS, "MESH_API_TOKENS"} - _KEPT.keys()
    if known.get("MESH_MINIO_ENDPOINT"):  # the key belongs to an external store
        ours -= _KEY
    possible = {
        name for name in known if name in ours or name.startswith(variable_of(""))
    }
    chosen = set[str]()
    for name in names:
        if name in _KEPT:
            fail(f"--rotate {name}: it is kept, for {_KEPT[name]}", EXIT_USAGE)
        if name != "all" and name not in possible:
            expected = f"all, or one of {', '.join(sorted(possible))}"
            fail(f"--rotate {name}: expected {expected}", EXIT_USAGE)
        chosen |= possible if name == "all" else {name}
    return chosen | _KEY if chosen & _KEY else chosen


def _rotate_elsewhere(
    env_file: Path, chosen: Iterable[str], influx_url: str, grafana_url: str
) -> None:
    """Change the secrets that services store themselves, one after the other."""
    for name in sorted(_ELSEWHERE.intersection(chosen)):
        known = env_file_values(env_file)
        new, forget = _new(), None
        if name == "GRAFANA_ADMIN_PASSWORD":
            _change_grafana_password(grafana_url, known[name], new)
        elif name == "INFLUX_ADMIN_PASSWORD":
            InfluxOwner(influx_url, known["INFLUX_ADMIN_TOKEN"]).change_password(new)
        else:
            new, forget = InfluxOwner(influx_url, known[name]).another_token()
        _replace_values(env_file, {name: new})
        if forget is not None:
            forget()  # after the new one is on disk


def _give_to_broker(
    accounts: Mapping[str, Any],
    definitions: Path,
    known: Mapping[str, str],
    management_url: str | None,
) -> str:
    """Update the accounts of the broker of docker-compose.yml, if it is running.

    Args:
        accounts: definitions of the broker with the accounts.
        definitions: file that the broker loads when it starts.
        known: passwords that the broker may have now.

    Returns:
        Text about the result.

    Raises:
        ConfigError: the broker refuses the known password, or is another one.
    """
    password, url = known.get(variable_of(ADMIN)), known.get("MESH_BROKER_URL")
    if password is None or url is None:
        return f"it takes the accounts of {definitions} when it starts"
    url = as_account(url, ADMIN, password)
    try:
        import_accounts(url, accounts, DEVICE_PREFIX, management_url)
    except Transient:
        return (
            f"it does not answer, and takes the accounts of {definitions} when it "
            "starts"
        )
    except ConfigError as error:
        expected = (
            f"{error.expected}. It is another broker, or one that does not have the "
            f"password of {variable_of(ADMIN)}. A broker that loads {definitions} when "
            "it starts has it after `docker compose restart rabbitmq`; "
            "--management-url names another"
        )
        raise ConfigError(error.source, error.key, expected) from error
    return "it has the accounts"


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
        new_devices: see :func:`secrets`.

    Raises:
        typer.Exit: the name of a device is invalid.
        OSError: a file cannot be written.
    """
    known = env_file_values(env_file)
    devices = sorted({*new_devices, *_devices_in(known)})
    for name in devices:
        if not _DEVICE_NAME.fullmatch(name):
            expected = "small letters, digits and single underscores, such as attic_1"
            fail(f"--device {name!r}: expected {expected}", EXIT_USAGE)
    roles = rights_of(topology, devices)
    wanted = _wanted(sorted(roles), known, names)
    added = add_missing(env_file, wanted)
    _write_definitions(definitions, _accounts(topology, wanted | known, devices))
    return Made(added, len(known), len(roles))


def _write_definitions(definitions: Path, accounts: Mapping[str, Any]) -> None:
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


def _accounts(
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
    made = {variable_of(role): _new() for role in roles}
    operator = known.get(variable_of("operator"), made[variable_of("operator")])
    if "INFLUX_ADMIN_TOKEN" in names and (token := known.get("MESH_INFLUX_TOKEN")):
        made["INFLUX_ADMIN_TOKEN"] = token  # its earlier name
    return {
        # For programs on this machine, outside of containers.
        "MESH_BROKER_URL": f"amqp://operator:{operator}@127.0.0.1:5672/{VHOST}",
        "MESH_FLOWER_USER": "mesh",
        "MESH_API_TOKENS": f"n8n:publish+trigger:{_new()},owner:operate:{_new()}",
        **{name: _new(name) for name in names},
        **made,
    }


def _devices_in(known: Mapping[str, str]) -> list[str]:
    """Names of the devices that have a password."""
    prefix = variable_of(DEVICE_PREFIX)
    return [
        name.removeprefix(prefix).lower() for name in known if name.startswith(prefix)
    ]


def variable_of(role: str) -> str:
    """The variable with the password of a role's account."""
    return f"MESH_BROKER_PASSWORD_{role.upper()}"


def _new(name: str = "") -> str:
    """A new secret in the format that the variable requires."""
    if name == "MESH_MINIO_ACCESS_KEY":
        return f"GK{random.token_hex(12)}"  # the format of Garage's keys
    if size := _HEX_BYTES.get(name):
        return random.token_hex(size)
    return random.token_urlsafe(24)


def _replacement(variable: str, value: str) -> str:
    """A new value of a variable; the gateway's tokens keep their names and scopes."""
    if variable == "MESH_API_TOKENS":
        return _API_TOKEN.sub(lambda found: found[1] + _new(), value)
    return _new(variable)


def _replace_values(env_file: Path, values: Mapping[str, str]) -> None:
    """Replace values in a file such as ``.env``; everything else is unchanged.

    Raises:
        OSError: the file cannot be written, and is unchanged.
    """
    text = env_file.read_text(encoding="utf-8")
    parts = []
    for binding in parse_stream(io.StringIO(text)):
        original = binding.original.string
        if binding.key is not None and binding.key in values:
            # The parser counts blank lines before an assignment as part of it.
            before = original[: len(original) - len(original.lstrip())]
            exported = "export " if original.lstrip().startswith("export") else ""
            original = f"{before}{exported}{binding.key}={values[binding.key]}\n"
        parts.append(original)
    replace_private(env_file, "".join(parts))


def as_account(broker_url: str, account: str, password: str) -> str:
    """Replace the account in an AMQP URL, or in those of a cluster's nodes."""
    login = f"{quote(account, safe='')}:{quote(password, safe='')}"
    return ";".join(
        (parts := urlsplit(url))
        ._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}")
        .geturl()
        for url in urls_of(broker_url)
    )


def _services_with(variables: Iterable[str], compose_file: Path) -> list[str]:
    """The services of a compose file that use one of these variables."""
    names = "|".join(map(re.escape, variables))
    if not names or not compose_file.is_file():
        return []
    services = yaml.safe_load(compose_file.read_text(encoding="utf-8"))["services"]
    given = re.compile(rf"\$\{{(?:{names})\b")
    return [name for name in services if given.search(json.dumps(services[name]))]


def _change_grafana_password(url: str, old: str, new: str) -> None:
    """Change the password of Grafana's administrator with ``PUT /api/user/password``.

    Grafana reads the password in its environment only at its first start.

    Raises:
        ConfigError: Grafana refuses the old password, or the server is not Grafana.
        Transient: Grafana is unavailable.
    """
    body = {"oldPassword": old, "newPassword": new, "confirmNew": new}
    login = make_headers(basic_auth=f"admin:{old}")
    call("Grafana", "PUT", f"{url}/api/user/password", login, body)
