"""``meshtasks init``: write the files that a mesh needs into a directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import chdir, suppress
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
from meshtasks.cli.passwords import (
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
    account,
    has_own_broker,
    is_small,
    steps_of_systemd,
    unit_files,
    write_roles,
)
from meshtasks.config.environment import ENV_FILE, SHIPPED_CONFIG, env_file_values
from meshtasks.config.private_files import (
    make_private_directory,
    replace_file,
    replace_private,
)
from meshtasks.config.settings import Settings, load_settings

#: Path beside the shipped configuration, both in the package and in a clone.
COMPOSE_FILE = SHIPPED_CONFIG.with_name("docker-compose.yml")

#: File with the SHA-256 of each written file, by path.
_MEMORY = Path(".mesh/written.json")
#: Modes that do not depend on the umask; accounts of containers read these files.
_SHARED_FILE, _SHARED_DIRECTORY = 0o644, 0o755
#: Passwords needed without containers.
_OWN_SECRETS = ("MESH_FLOWER_PASSWORD", "MESH_SECRETS__N8N")
#: Profiles of docker-compose.yml, one of which is needed.
_SIZES = {"full", "light"}

EPILOG = (
    "Add the token of Home Assistant, notifications and other secrets to .env "
    "yourself. With --systemd, set MESH_BROKER_URL in the environment to use "
    "an existing broker."
)


def init(  # noqa: PLR0913 - options of a command
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Directory; created if missing.")
    ] = Path(),
    *,
    systemd: Annotated[
        bool,
        typer.Option(
            "--systemd", help="Write systemd units instead of docker-compose.yml."
        ),
    ] = False,
    user: Annotated[
        bool,
        typer.Option(
            "--user", help="Write units for `systemctl --user`; implies --systemd."
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="Name or address by which phones reach this machine.",
        ),
    ] = None,
    home_assistant: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of Home Assistant, if you have one."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Profile that `docker compose up` starts (default: light with less "
            "than 3 GB of memory, else full). Can be repeated.",
        ),
    ] = None,
    influx_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="URL of VictoriaMetrics or InfluxDB 2 (with --systemd)."
        ),
    ] = None,
    archive_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="URL of the archive: file:///directory or s3://bucket "
            "(with --systemd).",
        ),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of Triton, if you have it (with --systemd).",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace changed files, too, but never .env."),
    ] = False,
) -> None:
    """Write configuration, passwords, and docker-compose.yml or systemd units into a
    directory.

    These are config/, .env with new passwords, and docker-compose.yml or the units. On
    a terminal, the command asks for what it needs to know and no option gives. Run it
    again after an upgrade: it adds what is missing, and keeps passwords and files that
    you have changed.

    Exit codes: 0; 2 wrong usage; 73 a file cannot be written; 78 existing files cannot
    be used; 130 interrupted.
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
            left = _certificates(found)
            left += [f"next, in {Path.cwd()}:"]
            left += (
                steps_of_systemd(found.values, user=user)
                if systemd
                else _steps_of_docker(env_file_values(ENV_FILE))
            )
    except OSError as error:
        where = error.filename or directory
        fail(f"{where}: cannot be written: {error.strerror}", os.EX_CANTCREAT)
    _report(scaffold, found)
    say(*left)


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
        "Name or address by which phones and devices reach this machine",
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
    """Write all files into the current directory."""
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


def _certificates(found: Answers) -> list[str]:
    """Make the certificates of the mesh's own broker; return lines about them."""
    if not has_own_broker(found.values):
        return []
    made = make_certificates()
    give_to_owner(AUTHORITY_KEY, AUTHORITY, SERVER)
    return [made]


def _written_to(settings: Settings) -> Iterator[Path]:
    """Directories for data of the mesh that systemd does not create."""
    scheme, _, place = settings.env.archive_url.partition("://")
    places = [settings.env.state_dir, *([Path(place)] if scheme == "file" else [])]
    for path in dict.fromkeys(place.absolute() for place in places):
        if not path.is_relative_to(STATE_DIRECTORY):
            yield path


def _steps_of_docker(known: Mapping[str, str]) -> Iterator[str]:
    """The next commands to run in the directory with docker-compose.yml.

    Args:
        known: the variables in .env.
    """
    if not Path("Dockerfile").exists():
        yield "  # MESH_IMAGE in .env names the mesh's image; to make it, in a clone:"
        yield "  #   docker build -t meshtasks:local ."
    yield "  docker compose up -d"
    yield "  docker compose ps"
    address = known.get("MESH_HOST_ADDRESS", "127.0.0.1")
    yield f"  # devices: MQTT by TLS at {address}:8883, with {AUTHORITY}"
    if "full" in known.get("COMPOSE_PROFILES", "").split(","):
        yield f"  # phones: the app ntfy, server http://{address}:8090, home-alerts"


def _report(scaffold: Scaffold, found: Answers) -> None:
    say(f"{scaffold.written} files written, {scaffold.same} as they were")
    for path in scaffold.kept:
        say(f"{path}: kept, because it differs from what this version writes (--force)")
    for variable in found.unchanged:
        say(f"{ENV_FILE}: {variable} is kept; change it there")


class Scaffold:
    """Writes files below the current directory, and records their hashes.

    So after an upgrade, files that nobody has changed are replaced by new versions.

    Args:
        replace: whether to replace files that somebody has changed, too.

    Attributes:
        written: number of new or replaced files.
        kept: files that somebody has changed, and that were kept.
        same: number of files that are up to date.
    """

    def __init__(self, *, replace: bool) -> None:
        """Read the hashes of the last run."""
        self._replace = replace
        self._hashes: dict[str, str] = {}
        if _MEMORY.is_file():
            # A full disk may have truncated the file; then all files are kept.
            with suppress(ValueError):
                self._hashes = dict(json.loads(_MEMORY.read_bytes()))
        self.written = self.same = 0
        self.kept: list[Path] = []

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, unless somebody has changed it.

        Raises:
            OSError: the file cannot be written; the error names it.
        """
        place = Path(os.path.realpath(path))  # symbolic links are kept
        found = place.read_bytes() if place.exists() else None
        if found == content:
            self.same += 1
            self._hashes[str(path)] = _hash(content)
            return
        is_mine = found is not None and _hash(found) == self._hashes.get(str(path))
        if found is not None and not is_mine and not self._replace:
            self.kept.append(path)
            return
        make_directory(place.parent)
        replace_file(place, content, _SHARED_FILE)
        give_to_owner(path)
        self._hashes[str(path)] = _hash(content)
        self.written += 1

    def remember(self) -> None:
        """Store the hashes for the next run.

        Raises:
            OSError: the file of hashes cannot be written.
        """
        make_private_directory(_MEMORY.parent)
        replace_private(_MEMORY, json.dumps(self._hashes, indent=1))
        give_to_owner(_MEMORY)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_directory(path: Path) -> None:
    """Create a directory and its parents with a mode that ignores the umask.

    Existing directories keep their mode.

    Raises:
        OSError: the directory cannot be created.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir()
    path.chmod(_SHARED_DIRECTORY)


def give_to_owner(*paths: Path) -> None:
    """Give files to the owner of the current directory, if root has created them.

    The directories between are included.

    Raises:
        OSError: the file system does not support owners.
    """
    if os.geteuid() != 0:
        return
    owner = Path.cwd().stat()
    for path in paths:
        for each in (path, *path.parents[:-1]):
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)


def shipped_files() -> Iterator[tuple[Path, bytes]]:
    """Paths of the shipped files of config/, relative to the current directory."""
    for path in sorted(SHIPPED_CONFIG.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield Path("config", path.relative_to(SHIPPED_CONFIG)), path.read_bytes()
