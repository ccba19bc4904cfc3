"""systemd units of the mesh's own processes, which are those of the Procfile.

Syntax: systemd.unit(5), systemd.service(5) and, of the files with variables,
``EnvironmentFile=`` in systemd.exec(5).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from meshtasks.amqp.accounts import OPERATOR
from meshtasks.cli.scaffold import PROCFILE
from meshtasks.cli.secrets import variable_of
from meshtasks.config.private_files import replace_private
from meshtasks.config.settings import env_file_values

#: Where the files are written, below the directory of the mesh.
UNITS = Path("systemd")
#: What systemd makes for the account of the units (``StateDirectory=``).
STATE_DIRECTORY = Path("/var/lib/meshtasks")

_ROLES = {"gateway": "gateway", "flower": "monitor", "sensornet": "normaliser"}
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
#: A line of the Procfile, those included that are commented out.
_PROCESS = re.compile(
    r"^(?:# )?(?P<name>\w+): (?:MESH_METRICS_PORT=(?P<port>\d+) )?"
    r"""(?:FLOWER_BASIC_AUTH="[^"]*" )?exec (?P<command>.+)$""",
    re.MULTILINE,
)
_WORKER = ["meshtasks", "worker", "-n"]


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the Procfile.

    Attributes:
        name: of the process.
        port: where a worker shows its metrics.
        words: the command.
    """

    name: str
    port: str | None
    words: list[str]

    @property
    def is_worker(self) -> bool:
        """Whether it consumes a group of queues."""
        return self.words[: len(_WORKER)] == _WORKER

    @property
    def role(self) -> str:
        """Its account at the broker."""
        usual = "worker" if self.is_worker else "producer"
        return _ROLES.get(self.name, usual)

    @property
    def unit(self) -> str:
        """The unit that runs it."""
        prefix = "meshtasks-worker@" if self.is_worker else "meshtasks-"
        return f"{prefix}{self.name}.service"


def processes() -> list[Process]:
    """All of the Procfile but the simulated house."""
    found = _PROCESS.finditer(PROCFILE.read_text(encoding="utf-8"))
    return [
        Process(each["name"], each["port"], shlex.split(each["command"]))
        for each in found
        if each["name"] != "simulator"
    ]


def unit_files(
    account: str | None, writable: Iterable[Path]
) -> Iterator[tuple[Path, str]]:
    """The units, their target, and a file of options for each group of queues.

    Args:
        account: that runs the units; None for those of a user's own systemd.
        writable: directories beside :data:`STATE_DIRECTORY`.
    """
    directory = Path.cwd()
    loader = PackageLoader(__package__, "")
    templates = Templates(  # noqa: S701 - it is no HTML
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True
    )
    template = templates.get_template("unit.service.j2")
    interpreter = Path(sys.executable)
    places = (directory, interpreter, interpreter.resolve())
    is_in_home = any(place.is_relative_to(home) for place in places for home in _HOMES)
    shared = {
        "account": account,
        "directory": _specifiers(str(directory)),
        "protect_home": "read-only" if is_in_home else "yes",
        "writable": [_word(str(path)) for path in writable],
    }
    worker = [*_WORKER[1:], "%i@%%h", "$WORKER_OPTIONS"]
    command = " ".join([_python(), "-m meshtasks.cli", *worker])
    yield (
        UNITS / "meshtasks-worker@.service",
        template.render(
            shared,
            description="worker %i",
            role="worker",
            command=command,
            is_worker=True,
            sees_host=False,
        ),
    )
    for process in processes():
        if process.is_worker:
            options = shlex.join(process.words[len(_WORKER) + 1 :])
            lines = f"WORKER_OPTIONS={variable_text(options)}\n"
            if process.port:
                lines += f"MESH_METRICS_PORT={process.port}\n"
            yield UNITS / f"worker-{process.name}.env", lines
            continue
        text = template.render(
            shared,
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


def refresh_roles(env_file: Path) -> None:
    """Write the files of the roles again, if there are units here.

    Raises:
        OSError: one cannot be written.
    """
    if (UNITS / "worker.env").exists():
        write_roles(env_file_values(env_file))


def write_roles(known: Mapping[str, str]) -> None:
    """Write a file for each role: the broker's URL with its account, and what else
    no other needs.

    Args:
        known: the variables of .env.

    Raises:
        OSError: one cannot be written.
    """
    url = known["MESH_BROKER_URL"]
    for role in sorted({process.role for process in processes()}):
        own = _with_account(url, role, known.get(variable_of(role), ""))
        lines = [
            "# Made from .env by `meshtasks init`: change it there.",
            f"MESH_BROKER_URL={variable_text(own)}",
        ]
        if role == "gateway":  # its console sees and replays what no API may
            lines.append(f"MESH_CONSOLE_BROKER_URL={variable_text(url)}")
        if role == "monitor":
            login = f"{known['MESH_FLOWER_USER']}:{known['MESH_FLOWER_PASSWORD']}"
            lines.append(f"FLOWER_BASIC_AUTH={variable_text(login)}")
        replace_private(UNITS / f"{role}.env", "\n".join(lines) + "\n")


def _with_account(url: str, role: str, password: str) -> str:
    """The URL for a role; a broker that has another account than ours keeps it."""
    parts = urlsplit(url)
    if parts.username != OPERATOR or not password:
        return url
    host = parts.netloc.rpartition("@")[2]
    account = f"{role}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{account}@{host}").geturl()


def variable_text(value: str) -> str:
    """A value as a file of variables has it for systemd, which expands nothing."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def _command(words: list[str]) -> str:
    """A command of the Procfile, by the interpreter that runs this."""
    program, *arguments = words
    modules = {"celery": ["-m", "celery"], "meshtasks": ["-m", "meshtasks.cli"]}
    given = [*modules.get(program, []), *arguments]
    return " ".join([_python(), *(_word(word).replace("$", "$$") for word in given)])


def _python() -> str:
    return _word(sys.executable)


def _word(text: str) -> str:
    """A word of a line that is split into words."""
    text = _specifiers(text)
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")
