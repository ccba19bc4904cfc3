"""systemd units for the processes in the Procfile, and the next steps to start them.

Syntax: systemd.unit(5), systemd.service(5), and for files with variables
``EnvironmentFile=`` in systemd.exec(5).
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from meshtasks.amqp.accounts import OPERATOR
from meshtasks.cli.certificates import AUTHORITY, SERVER
from meshtasks.cli.passwords import DEFINITIONS, as_account, variable_of
from meshtasks.config.environment import SHIPPED_CONFIG, env_file_values
from meshtasks.config.extras import Extra, installed
from meshtasks.config.private_files import replace_private

#: Path beside the shipped configuration, both in the package and in a clone.
_PROCFILE = SHIPPED_CONFIG.with_name("Procfile")
#: Directory of the written files, relative to the directory of the mesh.
UNITS = Path("systemd")
#: Directory that systemd creates for the account of the units (``StateDirectory=``).
STATE_DIRECTORY = Path("/var/lib/meshtasks")

_ROLES = {"gateway": "gateway", "flower": "monitor", "sensornet": "normaliser"}
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
#: A line of the Procfile, even if it is commented out.
_PROCESS = re.compile(
    r"^(?:# )?(?P<name>\w+): (?:MESH_METRICS_PORT=(?P<port>\d+) )?"
    r"""(?:FLOWER_BASIC_AUTH="[^"]*" )?exec (?P<command>.+)$""",
    re.MULTILINE,
)
_WORKER = ["meshtasks", "worker", "-n"]
#: Account of the units in a directory of root; systemd-sysusers creates it.
_ACCOUNT = "mesh"
#: Extra that a process needs.
_EXTRAS: dict[str, Extra] = {
    "gateway": "gateway",
    "flower": "flower",
    "ai": "triton",
    "homeassistant": "homeassistant",
}
#: Processes that are needed only if a variable has a value.
_ASKED_FOR = {
    "ai": "MESH_TRITON_URL",
    "triton": "MESH_TRITON_URL",
    "homeassistant": "MESH_HASS_URL",
}
#: Processes that are not enabled at first: targets must be listed in
#: config/producers/prometheus.yaml before.
_NOT_YET = {"prometheus"}
#: Name of the worker for all queues, which replaces one worker for each group.
_FOR_ALL = "all"
#: Machines with less memory run one worker for all queues.
_SMALL_BYTES = 3 * 1024**3
_OF_RABBITMQ = {
    "enabled_plugins": "enabled_plugins",
    "advanced.config": "advanced.config",
    "rabbitmq.conf": "conf.d/20-mesh.conf",
}


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the Procfile.

    Attributes:
        name: name of the process.
        port: port of a worker's metrics.
        words: words of the command.
    """

    name: str
    port: str | None
    words: list[str]

    @property
    def is_worker(self) -> bool:
        """Whether the process is a worker."""
        return self.words[: len(_WORKER)] == _WORKER

    @property
    def role(self) -> str:
        """Role of the process, which selects its account at the broker."""
        usual = "worker" if self.is_worker else "producer"
        return _ROLES.get(self.name, usual)

    @property
    def unit(self) -> str:
        """Name of its unit."""
        prefix = "meshtasks-worker@" if self.is_worker else "meshtasks-"
        return f"{prefix}{self.name}.service"

    @property
    def variables(self) -> str:
        """Content of a worker's file of variables."""
        options = shlex.join(self.words[len(_WORKER) + 1 :])
        port = f"MESH_METRICS_PORT={self.port}\n" if self.port else ""
        return f"WORKER_OPTIONS={variable_text(options)}\n{port}"


def processes() -> list[Process]:
    """The processes of the Procfile, except the simulator."""
    found = _PROCESS.finditer(_PROCFILE.read_text(encoding="utf-8"))
    return [
        Process(each["name"], each["port"], shlex.split(each["command"]))
        for each in found
        if each["name"] != "simulator"
    ]


def unit_files(
    account: str | None, writable: Iterable[Path]
) -> Iterator[tuple[Path, str]]:
    """Yield path and content of the units, their target and files of options.

    Args:
        account: account that runs the units; None for units of a user.
        writable: directories that units may write to, besides :data:`STATE_DIRECTORY`.
    """
    render = _renderer(account, writable)
    worker = [*_WORKER[1:], "%i@%%h", "$WORKER_OPTIONS"]
    text = render(
        description="worker %i",
        role="worker",
        command=" ".join([_python(), "-m meshtasks.cli", *worker]),
        is_worker=True,
        sees_host=False,
    )
    yield UNITS / "meshtasks-worker@.service", text
    for process in processes():
        if process.is_worker:
            yield UNITS / f"worker-{process.name}.env", process.variables
            continue
        text = render(
            description=process.name,
            role=process.role,
            command=_command(process.words),
            is_worker=False,
            sees_host=process.name == "system",
        )
        yield UNITS / process.unit, text
    wanted_by = "multi-user.target" if account else "default.target"
    target = f"[Unit]\nDescription=meshtasks\n\n[Install]\nWantedBy={wanted_by}\n"
    yield UNITS / "meshtasks.target", target
    if account:
        line = f'u {account} - "meshtasks" {STATE_DIRECTORY}\n'
        yield UNITS / "sysusers.conf", line


def _renderer(account: str | None, writable: Iterable[Path]) -> Callable[..., str]:
    """A function that makes a unit in the current directory. The arguments are those of
    :func:`unit_files`."""
    loader = PackageLoader(__package__, "")
    templates = Templates(  # noqa: S701 - it is not HTML
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True
    )
    directory, interpreter = Path.cwd(), Path(sys.executable)
    places = (directory, interpreter, interpreter.resolve())
    is_in_home = any(place.is_relative_to(home) for place in places for home in _HOMES)
    return partial(
        templates.get_template("unit.service.j2").render,
        account=account,
        directory=_specifiers(str(directory)),
        protect_home="read-only" if is_in_home else "yes",
        writable=[_word(str(path)) for path in writable],
    )


def refresh_roles(env_file: Path) -> None:
    """Write the files of the roles again, if the current directory has units.

    Raises:
        OSError: a file cannot be written.
    """
    if (UNITS / "worker.env").exists():
        write_roles(env_file_values(env_file))


def write_roles(known: Mapping[str, str]) -> None:
    """Write a file for each role: the URL of the broker with the role's account, and
    secrets that only this role needs.

    Args:
        known: the variables in .env.

    Raises:
        OSError: a file cannot be written.
    """
    url = known["MESH_BROKER_URL"]
    for role in sorted({process.role for process in processes()}):
        own = _with_account(url, role, known.get(variable_of(role), ""))
        lines = [
            "# Written by `meshtasks init` from .env; change it there.",
            f"MESH_BROKER_URL={variable_text(own)}",
        ]
        if role == "gateway":  # its console needs more permissions than the API
            lines.append(f"MESH_CONSOLE_BROKER_URL={variable_text(url)}")
        if role == "monitor":
            login = f"{known['MESH_FLOWER_USER']}:{known['MESH_FLOWER_PASSWORD']}"
            lines.append(f"FLOWER_BASIC_AUTH={variable_text(login)}")
        replace_private(UNITS / f"{role}.env", "\n".join(lines) + "\n")


def _with_account(url: str, role: str, password: str) -> str:
    """The URL with the account of a role; unchanged if the user set another account."""
    if urlsplit(url).username != OPERATOR or not password:
        return url
    return as_account(url, role, password)


def variable_text(value: str) -> str:
    """A value in quotes for a file of variables, so that systemd expands nothing."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def _command(words: list[str]) -> str:
    """A command of the Procfile for a unit, with the current Python interpreter."""
    program, *arguments = words
    modules = {"celery": ["-m", "celery"], "meshtasks": ["-m", "meshtasks.cli"]}
    given = [*modules.get(program, []), *arguments]
    return " ".join([_python(), *(_word(word).replace("$", "$$") for word in given)])


def _python() -> str:
    return _word(sys.executable)


def _word(text: str) -> str:
    """A word of a command line, in quotes if necessary."""
    text = _specifiers(text)
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def account() -> str:
    """The account for the units: the owner of the directory; ``mesh`` if it is root."""
    uid = Path.cwd().stat().st_uid
    if uid == 0:
        return _ACCOUNT
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container, the uid may have no name
        return str(uid)


def has_own_broker(values: Mapping[str, str]) -> bool:
    """Whether the broker is only for the mesh, by the answers or variables in .env."""
    url = values.get("MESH_BROKER_URL", "")
    return not url or "operator:" in url


def is_small() -> bool:
    """Whether this machine has too little memory for a worker for each group."""
    return psutil.virtual_memory().total < _SMALL_BYTES


def steps_of_systemd(values: Mapping[str, str], *, user: bool) -> Iterator[str]:
    """The next commands to run in the directory with the units.

    Args:
        values: the answers, by variable.
        user: whether the units are for a user's systemd.
    """
    sudo = "" if os.geteuid() == 0 else "sudo "
    if has_own_broker(values):
        yield from _steps_of_broker(sudo)
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


def _steps_of_broker(sudo: str) -> Iterator[str]:
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


def _is_wanted(process: Process, values: Mapping[str, str]) -> bool:
    if variable := _ASKED_FOR.get(process.name):
        return variable in values
    if process.is_worker:
        return (process.name == _FOR_ALL) == is_small()
    return process.name not in _NOT_YET


def _lack(process: Process) -> Extra | None:
    """The missing extra that a process needs; None if nothing is missing."""
    extra = _EXTRAS.get(process.name)
    return extra if extra and not installed(extra) else None
