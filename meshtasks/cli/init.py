"""``meshtasks init``: a directory with all that a mesh of one's own needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer
import yaml

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli import answers as ask
from meshtasks.cli.answers import Answers, quoted
from meshtasks.cli.certificates import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    make_certificates,
)
from meshtasks.cli.next_steps import (
    account,
    has_own_broker,
    is_small,
    steps_of_docker,
    steps_of_systemd,
)
from meshtasks.cli.scaffold import (
    COMPOSE_FILE,
    Scaffold,
    give_to_owner,
    make_directory,
    shipped_files,
)
from meshtasks.cli.secrets import (
    DEFINITIONS,
    STACK_SECRETS,
    add_missing,
    make_secrets,
    stack_settings,
)
from meshtasks.cli.terminal import EXIT_INTERRUPTED, fail, say
from meshtasks.cli.units import (
    STATE_DIRECTORY,
    UNITS,
    unit_files,
    write_roles,
)
from meshtasks.config.settings import ENV_FILE, Settings, env_file_values, load_settings

#: Passwords of what runs without containers; the stores there have their own.
_OWN_SECRETS = ("MESH_FLOWER_PASSWORD", "MESH_SECRETS__N8N")
#: Profiles of docker-compose.yml of which one is needed.
_SIZES = {"full", "light"}

EPILOG = (
    "Home Assistant's token, notifications and other secrets are added to .env by "
    "hand. With --systemd, a broker that exists already is given as MESH_BROKER_URL "
    "in the environment."
)


def init(  # noqa: PLR0913 - options of a command
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; made if missing.")
    ] = Path(),
    *,
    systemd: Annotated[
        bool,
        typer.Option("--systemd", help="Units of systemd, not docker-compose.yml."),
    ] = False,
    user: Annotated[
        bool,
        typer.Option("--user", help="Units for `systemctl --user`; implies --systemd."),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="Name or address under which phones reach this machine.",
        ),
    ] = None,
    home_assistant: Annotated[
        str | None, typer.Option(metavar="URL", help="Home Assistant, if there is one.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A profile that `docker compose up` starts (by default light with "
            "less than 3 GB of memory, else full); repeat it for more.",
        ),
    ] = None,
    influx_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="VictoriaMetrics or InfluxDB 2 (with --systemd)."
        ),
    ] = None,
    archive_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="file:///directory or s3://bucket (with --systemd)."
        ),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Triton, if there is one (with --systemd)."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace files that were changed; never .env."),
    ] = False,
) -> None:
    """Write configuration, passwords and what starts the mesh into a directory.

    That is config/, .env with new passwords, and docker-compose.yml or units of
    systemd. On a terminal it asks for what it cannot know and no option says.
    Run it again after an upgrade: what is missing is added; passwords, and files
    that you have changed, are kept.

    Exit codes: 0; 2 wrong usage; 73 something cannot be written; 78 what is there
    already cannot be used; 130 interrupted.
    """
    systemd = systemd or user
    if systemd and profile:
        raise typer.BadParameter("is for Docker", param_hint="--profile")
    known = env_file_values(directory / ENV_FILE)
    found = Answers(known)
    try:
        found.get(
            "MESH_HASS_URL",
            home_assistant,
            ask.home_assistant_url,
            "",
            "URL of Home Assistant, if there is one",
        )
        if systemd:
            _ask_for_systemd(found, influx_url, archive_url, triton, user=user)
        else:
            _ask_for_docker(found, address, profile or [])
    except typer.Abort:
        fail("interrupted; nothing was written", EXIT_INTERRUPTED)
    try:
        make_directory(directory)
        with chdir(directory):
            scaffold = Scaffold(replace=force)
            _write(scaffold, found, systemd=systemd, user=user)
            certificates = ""
            if has_own_broker(found.values):
                certificates = make_certificates()
                give_to_owner(AUTHORITY_KEY, AUTHORITY, SERVER)
            place = Path.cwd()
            steps = (
                steps_of_systemd(found.values, user=user)
                if systemd
                else steps_of_docker(env_file_values(ENV_FILE))
            )
            left = [certificates] if certificates else []
            left += [f"next, in {place}:", *steps]
    except OSError as error:
        where = error.filename or directory
        fail(f"{where}: cannot be written: {error.strerror}", os.EX_CANTCREAT)
    _report(scaffold, found)
    say("\n".join(left))


def _ask_for_docker(found: Answers, address: str | None, profiles: list[str]) -> None:
    services = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))["services"]
    existing = {name for each in services.values() for name in each.get("profiles", ())}
    if unknown := set(profiles) - existing:
        message = f"expected {', '.join(sorted(existing))}, not {min(unknown)!r}"
        raise typer.BadParameter(message, param_hint="--profile")
    if {*profiles} >= _SIZES or {"ai", "light"} <= {*profiles}:
        message = "expected one size, full or light; ai is for full"
        raise typer.BadParameter(message, param_hint="--profile")
    found.get(
        "MESH_HOST_ADDRESS",
        address,
        ask.host,
        ask.own_address(),
        "Name or address under which phones and devices reach this machine",
    )
    wanted = {*profiles}
    if not wanted & _SIZES:
        wanted.add("light" if is_small() and "ai" not in wanted else "full")
    if "MESH_HASS_URL" in found.values:
        wanted.add("homeassistant")
    chosen = ",".join(sorted(wanted))
    found.get("COMPOSE_PROFILES", chosen if profiles else None, str, chosen)


def _ask_for_systemd(
    found: Answers,
    influx_url: str | None,
    archive_url: str | None,
    triton: str | None,
    *,
    user: bool,
) -> None:
    found.get(
        "MESH_INFLUX_URL",
        influx_url,
        ask.base_url,
        "http://127.0.0.1:8428",
        "URL of VictoriaMetrics or InfluxDB 2",
    )
    state = Path(".mesh") if user else STATE_DIRECTORY
    found.get(
        "MESH_ARCHIVE_URL",
        archive_url,
        ask.archive_url,
        f"file://{state / 'archive'}",
        "Archive: file:///directory or s3://bucket",
    )
    if not user:
        found.get("MESH_STATE_DIR", None, str, str(STATE_DIRECTORY))
    found.get("MESH_TRITON_URL", triton, ask.host_and_port, "")
    found.get("MESH_BROKER_URL", os.environ.get("MESH_BROKER_URL"), str, "")


def _write(scaffold: Scaffold, found: Answers, *, systemd: bool, user: bool) -> None:
    """Write everything into the current directory."""
    for path, content in shipped_files():
        scaffold.write(path, content)
    answers = {name: quoted(value) for name, value in found.values.items()}
    add_missing(ENV_FILE, answers)
    if not systemd:
        add_missing(ENV_FILE, stack_settings(ENV_FILE))
    settings = load_settings()
    names = _OWN_SECRETS if systemd else STACK_SECRETS
    make_secrets(settings.read(TOPOLOGY), names)
    if systemd:
        owner = None if user else account()
        for path, text in unit_files(owner, _written_to(settings)):
            scaffold.write(path, text.encode())
        write_roles(env_file_values(ENV_FILE))
    else:
        scaffold.write(Path(COMPOSE_FILE.name), COMPOSE_FILE.read_bytes())
    scaffold.remember()
    give_to_owner(ENV_FILE, DEFINITIONS, *UNITS.glob("*.env"))


def _written_to(settings: Settings) -> Iterator[Path]:
    """Directories of the mesh's data that systemd does not make."""
    scheme, _, place = settings.env.archive_url.partition("://")
    places = [settings.env.state_dir, *([Path(place)] if scheme == "file" else [])]
    for path in dict.fromkeys(place.absolute() for place in places):
        if not path.is_relative_to(STATE_DIRECTORY):
            yield path


def _report(scaffold: Scaffold, found: Answers) -> None:
    say(f"{scaffold.written} files written, {scaffold.same} as they were")
    for path in scaffold.kept:
        say(f"{path}: kept, for it differs from what this version writes (--force)")
    for variable in found.unchanged:
        say(f"{ENV_FILE}: {variable} is kept; change it there")
