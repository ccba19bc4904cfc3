"""What is left to do after ``meshtasks init``, as commands to be copied."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil

from meshtasks.cli.certificates import AUTHORITY, SERVER
from meshtasks.cli.secrets import DEFINITIONS
from meshtasks.cli.units import UNITS, Process, processes
from meshtasks.config.extras import MODULES, Extra

#: Runs the units in a directory of root's; systemd-sysusers makes it.
_ACCOUNT = "mesh"
#: What a process needs beside the core.
_EXTRAS: dict[str, Extra] = {
    "gateway": "gateway",
    "flower": "flower",
    "ai": "triton",
    "homeassistant": "homeassistant",
}
#: Who is told by the answers that there is something to do.
_ASKED_FOR = {
    "ai": "MESH_TRITON_URL",
    "triton": "MESH_TRITON_URL",
    "homeassistant": "MESH_HASS_URL",
}
#: Targets have to be listed first in config/producers/prometheus.yaml.
_NOT_YET = {"prometheus"}
#: The worker for all queues, instead of one a group, and who has it.
_FOR_ALL = "all"
_SMALL_BYTES = 3 * 1024**3
_OF_RABBITMQ = {
    "enabled_plugins": "enabled_plugins",
    "advanced.config": "advanced.config",
    "rabbitmq.conf": "conf.d/20-mesh.conf",
}


def account() -> str:
    """Whose directory it is; those of root are for an account of the mesh's own."""
    uid = Path.cwd().stat().st_uid
    if uid == 0:
        return _ACCOUNT
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may have no name for it
        return str(uid)


def has_own_broker(values: Mapping[str, str]) -> bool:
    """Whether the broker is the mesh's own, by the answers or the variables of .env."""
    url = values.get("MESH_BROKER_URL", "")
    return not url or "operator:" in url


def is_small() -> bool:
    """Whether this machine has too little memory for a worker for each group."""
    return psutil.virtual_memory().total < _SMALL_BYTES


def steps_of_docker(known: Mapping[str, str]) -> Iterator[str]:
    """Commands for the directory with docker-compose.yml.

    Args:
        known: the variables of .env.
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


def steps_of_systemd(values: Mapping[str, str], *, user: bool) -> Iterator[str]:
    """Commands for the directory with the units.

    Args:
        values: the answers, by variable.
        user: they are for the user's own systemd.
    """
    sudo = "" if os.geteuid() == 0 else "sudo "
    if has_own_broker(values):
        yield "  # RabbitMQ on this machine: accounts, topology, MQTT"
        install = f"  {sudo}install -D -m"
        for name, place in _OF_RABBITMQ.items():
            yield f"{install} 644 config/rabbitmq/{name} /etc/rabbitmq/{place}"
        of_broker = f"640 -g rabbitmq {DEFINITIONS} /etc/rabbitmq"
        yield f"{install} {of_broker}/definitions.json"
        for path in (AUTHORITY, SERVER):
            place = f"/etc/rabbitmq/certificates/{path.name}"
            yield f"{install} 640 -g rabbitmq {path} {place}"
        yield f"  {sudo}systemctl restart rabbitmq-server"
        yield f"  {sudo}rabbitmqctl delete_user guest"
    yield "  # the mesh"
    systemctl, units = f"{sudo}systemctl", "/etc/systemd/system"
    owner = account()
    if user:
        systemctl, units = "systemctl --user", "~/.config/systemd/user"
        yield f"  mkdir -p {units}"
    elif owner == _ACCOUNT:
        yield f"  {sudo}systemd-sysusers {UNITS}/sysusers.conf"
        yield f"  {sudo}chown -R {_ACCOUNT}: ."
    copy = "cp" if user else f"{sudo}cp"
    yield f"  {copy} {UNITS}/*.service {UNITS}/*.target {units}"
    yield f"  {systemctl} daemon-reload"
    started = [process for process in processes() if _is_wanted(process, values)]
    missing = {process.unit: lack for process in started if (lack := _lack(process))}
    names = " ".join(each.unit for each in started if each.unit not in missing)
    yield f"  {systemctl} enable --now meshtasks.target {names}"
    if user:
        yield "  loginctl enable-linger  # they run without a login, too"
    program = shlex.quote(str(Path(sys.executable).with_name("meshtasks")))
    as_owner = f"runuser -u {owner} -- " if not user and not sudo else ""
    yield f"  {as_owner}{program} doctor"
    for unit, extra in missing.items():
        yield f"  # not started: {unit} (pip install 'meshtasks[{extra}]')"


def _is_wanted(process: Process, values: Mapping[str, str]) -> bool:
    if variable := _ASKED_FOR.get(process.name):
        return variable in values
    if process.is_worker:
        return (process.name == _FOR_ALL) == is_small()
    return process.name not in _NOT_YET


def _lack(process: Process) -> Extra | None:
    """The extra that a process needs and that is not installed."""
    extra = _EXTRAS.get(process.name)
    if extra and any(find_spec(each) is None for each in MODULES[extra]):
        return extra
    return None
