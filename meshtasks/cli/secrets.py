"""``meshtasks secrets``: passwords for ``docker compose``, made once and kept until
they are to change."""

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
from meshtasks.config.private_files import (
    make_private_directory,
    private_opener,
    replace_private,
    share,
    tighten,
)
from meshtasks.config.settings import ENV_FILE, env_file_values, load_settings
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, Transient

VHOST = "mesh"

#: docker-compose.yml mounts it. Its directory holds nothing else.
DEFINITIONS = Path(".mesh/compose/rabbitmq.json")
#: It mounts this, too; a clone that was made with umask 077 hides it from containers.
CONFIG = Path("config")
#: It becomes part of the account's name and of a variable's.
_DEVICE_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

#: What the services of docker-compose.yml ask for beside the accounts of the broker.
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

#: Garage takes secrets in hexadecimal, of so many bytes.
_HEX_BYTES = {"MESH_MINIO_SECRET_KEY": 32, "GARAGE_RPC_SECRET": 32}

#: What the services keep themselves; their environment counts at their first start.
_ELSEWHERE = frozenset(
    {"INFLUX_ADMIN_TOKEN", "INFLUX_ADMIN_PASSWORD", "GRAFANA_ADMIN_PASSWORD"}
)

#: Of the archive's store, which knows them as one.
_KEY = frozenset({"MESH_MINIO_ACCESS_KEY", "MESH_MINIO_SECRET_KEY"})
#: What cannot be had anew, and why.
_KEPT = {
    "N8N_ENCRYPTION_KEY": "n8n could not read the credentials that it keeps any more",
}
#: ``name:scopes:token``; names and scopes are a person's.
_API_TOKEN = re.compile(r"([^\s,:]+:[^\s,:]+:)[^\s,]+")

_HEAD = """\
# Written by `meshtasks secrets`, which adds missing variables and does not change the
# others. docker-compose.yml reads its passwords from this file; commands that run in
# this directory read the MESH_… variables. Keep the file secret.
"""


class Made(NamedTuple):
    """What :func:`make_secrets` did: secrets made and kept, accounts of the broker."""

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
    # A password that is made only now is not known to any broker that runs.
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
    # The broker first: if it refuses, its passwords are still those of the files.
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
    """The variables that are to have new values."""
    ours = {*STACK_SECRETS, "MESH_API_TOKENS"} - _KEPT.keys()
    if known.get("MESH_MINIO_ENDPOINT"):  # somebody else's store made the key
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
    """Change what the services keep themselves, one after the other."""
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
            forget()  # once the new one is on disk


def _give_to_broker(
    accounts: Mapping[str, Any],
    definitions: Path,
    known: Mapping[str, str],
    management_url: str | None,
) -> str:
    """Give the broker of docker-compose.yml the accounts now, if it runs; says how that
    went.

    Args:
        definitions: the file that it loads when it starts.
        known: passwords that it may have.

    Raises:
        ConfigError: it refuses ours.
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
            fail(f"--device {name!r}: expected {expected}", EXIT_USAGE)
    roles = rights_of(topology, devices)
    wanted = _wanted(sorted(roles), known, names)
    added = add_missing(env_file, wanted)
    _write_definitions(definitions, _accounts(topology, wanted | known, devices))
    return Made(added, len(known), len(roles))


def _write_definitions(definitions: Path, accounts: Mapping[str, Any]) -> None:
    make_private_directory(definitions.parent)
    if definitions == DEFINITIONS:
        tighten(definitions.parent)  # one that is named may be shared
    # In place: a container's mount of a single file shows another one only when it is
    # made again.
    text = json.dumps(accounts, indent=2)
    definitions.write_text(text + "\n", encoding="utf-8")
    # The broker's container reads it under another uid, through a bind mount that
    # Docker makes as root. So the directory keeps the hashes from others, not the file.
    definitions.chmod(0o644)


def _accounts(
    topology: Topology, values: Mapping[str, str], devices: Iterable[str]
) -> dict[str, Any]:
    """The broker's definitions, with the passwords of these variables."""
    names = sorted(devices)
    passwords = {role: values[variable_of(role)] for role in rights_of(topology, names)}
    return definitions_with_accounts(topology, VHOST, passwords, names)


def stack_settings(env_file: Path) -> dict[str, str]:
    """What docker-compose.yml beside the file asks for and is no secret.

    Without a clone there is nothing to make the image from: it is taken as it is
    there, or from where MESH_IMAGE says. MQTT without TLS is for this machine alone,
    but where devices had passwords before there was any TLS.
    """
    settings = {"COMPOSE_PROFILES": "full", "MESH_MQTT_ADDRESS": "127.0.0.1"}
    if variable_of("devices") in env_file_values(env_file):
        settings["MESH_MQTT_ADDRESS"] = "0.0.0.0"  # noqa: S104 - as it was
    if not env_file.with_name("Dockerfile").exists():
        settings["MESH_PULL_POLICY"] = "missing"
    return settings


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
    if "INFLUX_ADMIN_TOKEN" in names and (token := known.get("MESH_INFLUX_TOKEN")):
        made["INFLUX_ADMIN_TOKEN"] = token  # as it was called while there was one token
    return {
        # What is run on this machine, outside of any container.
        "MESH_BROKER_URL": f"amqp://operator:{operator}@127.0.0.1:5672/{VHOST}",
        "MESH_FLOWER_USER": "mesh",
        "MESH_API_TOKENS": f"n8n:publish+trigger:{_new()},owner:operate:{_new()}",
        **{name: _new(name) for name in names},
        **made,
    }


def _devices_in(known: Mapping[str, str]) -> list[str]:
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


def _replacement(variable: str, value: str) -> str:
    """The new value of a variable; of the gateway's tokens, names and scopes stay."""
    if variable == "MESH_API_TOKENS":
        return _API_TOKEN.sub(lambda found: found[1] + _new(), value)
    return _new(variable)


def _replace_values(env_file: Path, values: Mapping[str, str]) -> None:
    """Write new values into a file such as ``.env``; all else in it stays as it is.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    text = env_file.read_text(encoding="utf-8")
    parts = []
    for binding in parse_stream(io.StringIO(text)):
        original = binding.original.string
        if binding.key is not None and binding.key in values:
            # blank lines before an assignment belong to it
            before = original[: len(original) - len(original.lstrip())]
            exported = "export " if original.lstrip().startswith("export") else ""
            original = f"{before}{exported}{binding.key}={values[binding.key]}\n"
        parts.append(original)
    replace_private(env_file, "".join(parts))


def as_account(broker_url: str, account: str, password: str) -> str:
    """An AMQP URL, or those of a cluster's nodes, with another account."""
    login = f"{quote(account, safe='')}:{quote(password, safe='')}"
    return ";".join(
        (parts := urlsplit(url))
        ._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}")
        .geturl()
        for url in urls_of(broker_url)
    )


def _services_with(variables: Iterable[str], compose_file: Path) -> list[str]:
    """The services of a compose file that are given one of these variables."""
    names = "|".join(map(re.escape, variables))
    if not names or not compose_file.is_file():
        return []
    services = yaml.safe_load(compose_file.read_text(encoding="utf-8"))["services"]
    given = re.compile(rf"\$\{{(?:{names})\b")
    return [name for name in services if given.search(json.dumps(services[name]))]


def _change_grafana_password(url: str, old: str, new: str) -> None:
    """Change the password of Grafana's administrator, by its own API (``PUT
    /api/user/password``): its environment counts at its very first start only.

    Raises:
        ConfigError: Grafana refuses the old password, or it is not Grafana.
        Transient: it does not answer.
    """
    body = {"oldPassword": old, "newPassword": new, "confirmNew": new}
    login = make_headers(basic_auth=f"admin:{old}")
    call("Grafana", "PUT", f"{url}/api/user/password", login, body)
