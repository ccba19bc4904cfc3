"""A private RabbitMQ node: the embedded message broker.

It runs the distribution's RabbitMQ independently of the system's node, with its own
ports, data, logs, cookie, plugins, configuration and port mapper (epmd). It listens
only on loopback, and needs no permission except to write to its directory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from typing_extensions import override

from meshtasks.config.environment import SHIPPED_CONFIG
from meshtasks.demo import loopback
from meshtasks.demo.process import Process, ProcessFailed, Server

#: The server. The command on the PATH is a wrapper that requires the system's rabbitmq
#: user and drops the environment.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

MANAGEMENT = "rabbitmq_management"
MQTT = "rabbitmq_mqtt"
PROMETHEUS = "rabbitmq_prometheus"
PARTITIONS = "rabbitmq_consistent_hash_exchange"

#: Settings of plugins. RabbitMQ rejects settings of a plugin that is not enabled.
_PLUGIN_CONF = {
    MANAGEMENT: "management.tcp.ip = {host}\nmanagement.tcp.port = {ports.management}",
    PROMETHEUS: "prometheus.tcp.ip = {host}\nprometheus.tcp.port = {ports.prometheus}",
    MQTT: "mqtt.listeners.tcp.1 = {host}:{ports.mqtt}\nmqtt.allow_anonymous = false",
}

_CONF = """\
listeners.tcp.1 = {host}:{ports.amqp}
log.file = false
log.console = true
log.console.use_colors = off
load_definitions = {directory}/definitions.json
"""
#: All nodes of a cluster make a virtual host before the response.
_VHOST_SECONDS = 60.0
#: Memory limits; docker-compose.yml uses the same file.
_ADVANCED = SHIPPED_CONFIG / "rabbitmq" / "advanced.config"


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of a node, all on loopback.

    Attributes:
        amqp: AMQP 0-9-1.
        management: HTTP API and web pages of the management plugin.
        mqtt: MQTT 3.1.1 of the MQTT plugin.
        prometheus: metrics of the Prometheus plugin.
        distribution: Erlang's distribution protocol.
        epmd: Erlang's port mapper.
    """

    amqp: int
    management: int
    mqtt: int
    prometheus: int
    distribution: int
    epmd: int

    @classmethod
    def free(cls, **preferred: int) -> Self:
        """Return free ports: the preferred ones where they are free."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: loopback.free_port(preferred.get(name)) for name in names})


class RabbitMQ(Server):
    """A RabbitMQ node on loopback, with its own directory.

    Args:
        directory: for all its files; created if missing. A later node with the same
            directory has the same queues, messages and administrator.
        plugins: plugins to enable. They lengthen the start: management by about one
            second, MQTT by three.
        definitions: users, virtual hosts, exchanges, … to import at every start, in
            RabbitMQ's definitions format. An administrator and the virtual host ``/``
            are always added; there is no ``guest``.
        ports: ports to use; by default free ones.
    """

    #: Name of the administrator.
    user = "mesh-admin"

    def __init__(
        self,
        directory: Path,
        *,
        plugins: Sequence[str] = (MANAGEMENT,),
        definitions: Mapping[str, Any] | None = None,
        ports: Ports | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.plugins = tuple(plugins)
        self.ports = Ports.free() if ports is None else ports
        self._definitions = definitions or {}
        environment = self.environment
        self._epmd = Process(
            "epmd",
            ["epmd"],
            log_path=self.directory / "epmd.log",
            env=environment,
        )
        process = Process(
            "rabbitmq",
            [SERVER],
            log_path=self.directory / "rabbitmq.log",
            env=environment,
            cwd=self.directory,
            stop_seconds=40.0,
        )
        super().__init__(process, lambda: "Server startup complete" in process.output())

    @property
    def password(self) -> str:
        """Password of the administrator, generated once per directory."""
        return self._secret("admin.password")

    def amqp_url(self, vhost: str = "/") -> str:
        """Return the AMQP URL of a virtual host, with the administrator's account."""
        account = f"{self.user}:{self.password}"
        host = f"{loopback.HOST}:{self.ports.amqp}"
        return f"amqp://{account}@{host}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """URL of the management pages; the HTTP API is below ``/api``."""
        return f"http://{loopback.HOST}:{self.ports.management}"

    @override
    def start(self, within_seconds: float = 300.0) -> None:
        """Start the node and wait until plugins and definitions are loaded.

        Raises:
            ProcessFailed: it did not start; the text has the end of its log.
        """
        if "'" in str(self.directory):  # the disk monitor would hang
            message = (
                f"RabbitMQ cannot run in a path with an apostrophe: {self.directory}"
            )
            raise ProcessFailed(message)
        self._epmd.start()  # first: it fails if another node uses the directory
        try:
            self._write_files()
            # Otherwise the node would start a port mapper that outlives it.
            self._epmd.wait_ready(self._epmd_listens, within_seconds)
            super().start(within_seconds)
        except BaseException:
            self.kill()
            raise

    @override
    def stop(self) -> None:
        super().stop()
        self._epmd.stop()

    @override
    def kill(self) -> None:
        """Kill the node (SIGKILL), like a crash.

        A quorum queue declared in the last second may be lost with its messages:
        RabbitMQ confirms a declaration before the queue's name is on disk.
        """
        super().kill()
        self._epmd.kill()

    def create_vhost(self, name: str) -> None:
        """Create a virtual host in which the administrator has all permissions.

        Raises:
            HTTPFailed: the management API refused.
        """
        path = f"/vhosts/{quote(name, safe='')}"
        self.api("PUT", path, timeout_seconds=_VHOST_SECONDS)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and everything in it.

        Raises:
            HTTPFailed: it does not exist, or the management API refused.
        """
        self.api("DELETE", f"/vhosts/{quote(name, safe='')}")

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_seconds: float = 10.0,
    ) -> Any:
        """Call the management HTTP API as administrator.

        Args:
            path: below ``/api``, with its leading slash.
            body: sent as JSON unless None.
            timeout_seconds: for the connection, and for each read of the response.

        Returns:
            The decoded JSON of the response; None for an empty response.

        Raises:
            HTTPFailed: the status is not 2xx.
            OSError: the API cannot be reached.
        """
        answer = loopback.request(
            method,
            self.ports.management,
            f"/api{path}",
            body=None if body is None else json.dumps(body).encode(),
            credentials=(self.user, self.password),
            timeout_seconds=timeout_seconds,
        )
        return json.loads(answer) if answer else None

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the node and of its scripts (rabbitmqctl too).

        It sets every path and port that they would take from the system.
        """
        here = self.directory
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(here / "home"),
            "ERL_EPMD_ADDRESS": loopback.HOST,
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_CRASH_DUMP": str(here / "erl_crash.dump"),
            # Fixed, because the data on disk belong to the node's name. There is no
            # conflict with other nodes: the port mapper is private.
            "RABBITMQ_NODENAME": "mesh@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
                # Idle threads do not spin, since other processes need the cores.
                " +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d" / "*.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
        }

    def _write_files(self) -> None:
        here = self.directory
        for directory in (here, here / "home", here / "conf.d"):
            directory.mkdir(parents=True, exist_ok=True)
        here.chmod(0o700)
        self._secret("home/.erlang.cookie")
        parts = [_CONF, *(_PLUGIN_CONF.get(name, "") for name in self.plugins)]
        values = {"host": loopback.HOST, "ports": self.ports, "directory": here}
        texts = {
            "rabbitmq.conf": "\n".join(parts).format(**values),
            "rabbitmq-env.conf": "",
            "advanced.config": _ADVANCED.read_text(encoding="utf-8"),
            "enabled_plugins": f"[{','.join(self.plugins)}].\n",
            "definitions.json": json.dumps(self._all_definitions(), indent=1),
        }
        for name, text in texts.items():
            (here / name).write_text(text, encoding="utf-8")

    def _all_definitions(self) -> dict[str, Any]:
        given = self._definitions
        vhosts = [{"name": "/"}, *(given.get("vhosts") or ())]
        names = sorted({vhost["name"] for vhost in vhosts})
        admin = {
            "name": self.user,
            "password_hash": _password_hash(self.password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "administrator",
        }
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rights = [{"user": self.user, "vhost": name, **everything} for name in names]
        return {
            **given,
            "vhosts": [{"name": name} for name in names],
            "users": [*(given.get("users") or ()), admin],
            "permissions": [*(given.get("permissions") or ()), *rights],
        }

    def _secret(self, name: str) -> str:
        """Return the secret in a file; create both, readable only by the owner."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        except FileExistsError:
            return path.read_text(encoding="ascii")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secret := secrets.token_hex(16))
        return secret

    def _epmd_listens(self) -> bool:
        try:
            socket.create_connection((loopback.HOST, self.ports.epmd), 1.0).close()
        except OSError:
            return False
        return True


def _password_hash(password: str) -> str:
    """Return RabbitMQ's salted SHA-256, as documented for passwords."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode()
