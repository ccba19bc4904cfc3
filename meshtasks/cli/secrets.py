"""``meshtasks secrets``: passwords for ``docker compose``, generated once and kept."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from dotenv.parser import parse_stream
from urllib3 import make_headers

from meshtasks.amqp.accounts import (
    ADMIN,
    DEVICE_PREFIX,
)
from meshtasks.amqp.management import import_accounts
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.certificates import make_certificates
from meshtasks.cli.influxdb import InfluxOwner, call
from meshtasks.cli.passwords import (
    DEFINITIONS,
    STACK_SECRETS,
    accounts_of,
    add_missing,
    as_account,
    devices_in,
    make_secrets,
    new_secret,
    stack_settings,
    variable_of,
    write_definitions,
)
from meshtasks.cli.terminal import EXIT_USAGE, fail, say
from meshtasks.cli.units import refresh_roles
from meshtasks.config.environment import ENV_FILE, env_file_values
from meshtasks.config.private_files import (
    replace_private,
    share,
)
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, Transient

#: Directory that it mounts, too. In a clone made with umask 077, containers cannot read
#: it.
CONFIG = Path("config")


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
    if definitions == DEFINITIONS:
        say(make_certificates())

    say(f"{env_file}: {made.new} secrets made, {made.kept} kept")
    _rotate_elsewhere(env_file, chosen, influx_url, grafana_url)
    known = env_file_values(env_file)
    new = _replacements(chosen - _ELSEWHERE, known)
    accounts = accounts_of(topology, known | new, devices_in(known))
    # The broker first: if it refuses, the passwords in the files are still valid.
    said = _give_to_broker(accounts, definitions, before, management_url)
    say(f"broker: {said}")
    if new:
        _replace_values(env_file, new)
        write_definitions(definitions, accounts)
    refresh_roles(env_file)
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
        new, forget = new_secret(), None
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


def _replacements(variables: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """New values of these variables, and of the URL that has the operator's password.

    The gateway's tokens keep their names and scopes.
    """
    new = {name: new_secret(name) for name in variables}
    if "MESH_API_TOKENS" in new:
        new["MESH_API_TOKENS"] = _API_TOKEN.sub(
            lambda found: found[1] + new_secret(), known["MESH_API_TOKENS"]
        )
    operator = new.get(variable_of("operator"))
    if operator and (url := known.get("MESH_BROKER_URL")):
        new["MESH_BROKER_URL"] = as_account(url, "operator", operator)
    return new


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
