"""A whole mesh on one machine, on loopback and in one directory.

It consists of RabbitMQ, VictoriaMetrics, Triton where possible, the stand-in for n8n
and phone, workers, Flower, the gateway and a simulated house::

    <directory>/
      env                exports MESH_…, for commands from another terminal
      log/               one file per process
      config/            configuration of the mesh, with the demo's own files
      rabbitmq/  victoria-metrics/  triton/  archive/  state/
      run/               working directory of the Python processes
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from meshtasks.config.environment import SHIPPED_CONFIG
from meshtasks.config.private_files import file_lock
from meshtasks.demo import loopback
from meshtasks.demo.process import Process, ProcessFailed
from meshtasks.demo.rabbitmq import MANAGEMENT, MQTT, Ports, RabbitMQ
from meshtasks.demo.receiver import Receiver
from meshtasks.demo.servers import Triton, VictoriaMetrics, unavailable_reason

#: Usual ports of the services, used if they are free.
_AMQP, _MANAGEMENT, _MQTT, _VICTORIA_METRICS, _FLOWER = 5672, 15672, 1883, 8428, 5555
_N8N, _TRITON, _GATEWAY = 5678, 8000, 8780

#: Model for which the simulated house sends requests.
_MODEL = "temperature-anomaly"

#: Configuration files of the demo that replace the user's.
_CONFIG = Path(__file__).with_name("config")

#: Prefixes of variables of the user's own mesh, which must not affect the demo.
_FOREIGN_PREFIXES = ("MESH_", "CELERY_", "FLOWER_")

_FLOWER_USER = "mesh"
#: Client name and scopes of the gateway's token.
_GATEWAY_CLIENT = "demo:publish+trigger+operate"

#: Statistics every second instead of every five, for the live view.
_EVERY_SECOND = """\
collect_statistics_interval = 1000
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
"""


class Stack:
    """The processes of a mesh, not started yet.

    Args:
        directory: for all files; created if missing.
        config_dir: configuration of the mesh, which replaces files of the shipped one;
            it need not exist.

    Raises:
        ProcessFailed: another stack uses the directory.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path, config_dir: Path) -> None:
        self.directory = directory.absolute()
        self._lock = ExitStack()
        lock = file_lock(self.directory / "lock", timeout_seconds=0)
        if not self._lock.enter_context(lock):
            message = f"{self.directory} is in use by another process"
            raise ProcessFailed(message)
        self.log_dir = self.directory / "log"
        self.run_dir = self.directory / "run"
        #: Shell script that exports the mesh's variables; readable only by its owner.
        self.env_file = self.directory / "env"
        #: Counts of the simulator as JSON, at most a second old.
        self.stats_file = self.run_dir / "simulator.json"
        self.rabbitmq = RabbitMQ(
            self.directory / "rabbitmq",
            plugins=(MANAGEMENT, MQTT),
            ports=Ports.free(amqp=_AMQP, management=_MANAGEMENT, mqtt=_MQTT),
        )
        self.victoria_metrics = VictoriaMetrics(
            self.directory / "victoria-metrics",
            port=loopback.free_port(_VICTORIA_METRICS),
        )
        self.flower_user = _FLOWER_USER
        self.flower_password = secrets.token_hex(8)
        self._flower_port = loopback.free_port(_FLOWER)
        self.gateway_token = secrets.token_hex(16)
        self._gateway_port = loopback.free_port(_GATEWAY)
        #: Stand-in for n8n and the phone; a thread of this process.
        self.receiver = Receiver(port=loopback.free_port(_N8N))
        self.config_dir = self.directory / "config"
        models = config_dir.absolute() / "triton"
        if not models.is_dir():
            models = SHIPPED_CONFIG / "triton"
        #: Why Triton cannot run; None if it can.
        self.triton_unavailable = unavailable_reason()
        if not self.triton_unavailable and not (models / _MODEL).is_dir():
            self.triton_unavailable = f"{models} has no {_MODEL}"
        self.triton = Triton(
            self.directory / "triton", [models], port=loopback.free_port(_TRITON)
        )
        #: Environment of the processes of this mesh.
        self.environment = self._environment()
        self.flower = self._celery(
            "flower",
            "flower",
            f"--address={loopback.HOST}",
            f"--port={self._flower_port}",
            "--tasks_columns=name,state,args,result,received,runtime,worker,uuid",
        )
        port = f"--port={self._gateway_port}"
        self.gateway = self._python("gateway", "meshtasks", "gateway", port)
        self._prepare(config_dir)

    @property
    def gateway_url(self) -> str:
        """URL of the HTTP gateway; it requires :attr:`gateway_token`."""
        return f"http://{loopback.HOST}:{self._gateway_port}"

    @property
    def console_address(self) -> str:
        """URL that opens the console logged in."""
        return f"{self.gateway_url}/login?token={self.gateway_token}"

    def gateway_answers(self) -> bool:
        """Return whether the gateway responds; once it does, create the console."""
        is_there = loopback.answers(self._gateway_port, "/healthz")
        loopback.answers(self._gateway_port, "/login")
        return is_there

    @property
    def flower_url(self) -> str:
        """URL of Flower; it requires :attr:`flower_user` and the password."""
        return f"http://{loopback.HOST}:{self._flower_port}"

    def worker(self, name: str, queues: Sequence[str]) -> Process:
        """Return a Celery worker with one pool process."""
        return self._celery(
            f"worker-{name}",
            "worker",
            f"--hostname={name}@demo",
            f"--queues={','.join(queues)}",
            "--concurrency=1",
            "--loglevel=INFO",
            # A warm shutdown finishes the batches that are held.
            stop_seconds=40.0,
        )

    def simulator(self, *options: str) -> Process:
        """Return the simulated house; it writes counts to :attr:`stats_file`."""
        stats = f"--stats-file={self.stats_file}"
        module = "meshtasks.producers"
        return self._python("simulator", module, "simulator", stats, *options)

    def flower_answers(self) -> bool:
        """Return whether Flower responds."""
        return loopback.answers(self._flower_port, "/healthcheck")

    def _celery(
        self, name: str, *arguments: str, stop_seconds: float = 20.0
    ) -> Process:
        arguments = ("--app=meshtasks", *arguments)
        return self._python(name, "celery", *arguments, stop_seconds=stop_seconds)

    def _python(
        self, name: str, module: str, *arguments: str, stop_seconds: float = 20.0
    ) -> Process:
        return Process(
            name,
            [sys.executable, "-m", module, *arguments],
            log_path=self.log_dir / f"{name}.log",
            env=self.environment,
            # A directory without a .env file.
            cwd=self.run_dir,
            stop_seconds=stop_seconds,
        )

    def _prepare(self, config_dir: Path) -> None:
        """Create the directories and the configuration files."""
        conf_d = self.rabbitmq.directory / "conf.d"
        for directory in (self.run_dir, self.log_dir, conf_d):
            directory.mkdir(parents=True, exist_ok=True)
        (conf_d / "statistics.conf").write_text(_EVERY_SECOND, encoding="ascii")
        shutil.rmtree(self.config_dir, ignore_errors=True)
        without_models = shutil.ignore_patterns("triton")
        for source in (SHIPPED_CONFIG, config_dir, _CONFIG):
            if source.is_dir():
                shutil.copytree(
                    source, self.config_dir, ignore=without_models, dirs_exist_ok=True
                )
        for process in (
            self.rabbitmq.process,
            self.victoria_metrics.process,
            self.triton.process,
        ):
            link = self.log_dir / process.log_path.name
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(process.log_path, self.log_dir))
        for log in self.log_dir.glob("*.log"):
            if log.exists():
                os.truncate(log, 0)  # logs of the last run; they would only grow
        self.stats_file.unlink(missing_ok=True)
        self.env_file.unlink(missing_ok=True)
        self.env_file.touch(mode=0o600)
        lines = (
            f"export {name}={shlex.quote(value)}\n"
            for name, value in self.environment.items()
            if name.startswith("MESH_")
        )
        self.env_file.write_text("".join(lines), encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        broker = self.rabbitmq
        flower_login = f"{self.flower_user}:{self.flower_password}"
        broker_login = f"{broker.user}:{broker.password}"
        management = f"{loopback.HOST}:{broker.ports.management}"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_PREFIXES)
        }
        return {
            **inherited,
            # All services are on this machine, which a proxy cannot reach.
            "NO_PROXY": loopback.HOST,
            "no_proxy": loopback.HOST,
            "MESH_BROKER_URL": broker.amqp_url(),
            "MESH_MANAGEMENT_URL": broker.management_url,
            "MESH_CONFIG_DIR": str(self.config_dir),
            "MESH_STATE_DIR": str(self.directory / "state"),
            "MESH_INFLUX_URL": self.victoria_metrics.url,
            "MESH_ARCHIVE_URL": f"file://{self.directory / 'archive'}",
            "MESH_TRITON_URL": self.triton.url,
            "MESH_N8N_URL": self.receiver.url,
            "MESH_RECEIVERS__PHONE": self.receiver.phone_url,
            "MESH_API_TOKENS": f"{_GATEWAY_CLIENT}:{self.gateway_token}",
            "MESH_LINKS__FLOWER": self.flower_url,
            "MESH_LINKS__RABBITMQ": broker.management_url,
            "MESH_FLOWER_USER": self.flower_user,
            "MESH_FLOWER_PASSWORD": self.flower_password,
            # Not on the command line, which all users of the machine can read.
            "FLOWER_BASIC_AUTH": flower_login,
            "FLOWER_BROKER_API": f"http://{broker_login}@{management}/api/",
        }
