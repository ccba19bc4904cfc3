"""Private servers: VictoriaMetrics, the embedded time-series store, and Triton.

VictoriaMetrics is one binary that is ready in 50 ms (Debian's builds have no web
pages). It accepts InfluxDB 2's ``/api/v2/write`` and ignores token, organisation and
bucket. The field ``celsius`` of the measurement ``temperature`` becomes the series
``temperature_celsius``.

Triton comes from NVIDIA's wheel, in a virtual environment of its own
(:func:`meshtasks.demo.packages.ensure_triton`), because models of its Python backend
need numpy 1. It is ready in half a second. It needs Linux on x86-64, glibc 2.35, and a
Python that was built with a shared library.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from meshtasks.config.extras import require
from meshtasks.demo import loopback
from meshtasks.demo.packages import (
    TRITON_VENV,
    can_be_had,
    missing,
    python_libraries,
    triton_unavailable,
)
from meshtasks.demo.process import Process, ProcessFailed, Server
from meshtasks.errors import ConfigError

_ROWS_INSERTED = re.compile(rb"^vm_rows_inserted_total\{[^}]*\} (\S+)$", re.MULTILINE)

_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = TRITON_VENV / "lib" / _PYTHON / "site-packages"
_SERVER = _PACKAGES / "pytriton" / "tritonserver"
_INSTALL = f"{sys.executable} -m meshtasks.demo.packages triton"
_LIBRARIES = (*python_libraries(), _PACKAGES / "nvidia_pytriton.libs")


class VictoriaMetrics(Server):
    """A VictoriaMetrics server on loopback, with its own data directory.

    If killed, it loses the points of the last seconds: it responds before a write is on
    disk.

    Args:
        directory: for data and log; created if missing. A later server with the same
            directory has the same points.
        port: TCP port; by default a free one.
    """

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        self.directory = directory.absolute()
        self.port = loopback.free_port() if port is None else port
        program = shutil.which("victoria-metrics") or "victoria-metrics"
        process = Process(
            "victoria-metrics",
            [
                program,
                f"-storageDataPath={self.directory / 'data'}",
                f"-httpListenAddr={loopback.HOST}:{self.port}",
                # An archive may be replayed years later; a shorter retention would
                # silently drop its points.
                "-retentionPeriod=100y",
                # A point that is written again, as after a crash, is one point.
                "-dedup.minScrapeInterval=1ms",
                # Further tags would be dropped silently.
                "-maxLabelsPerTimeseries=256",
                # Without a key, any open web page could delete series.
                f"-deleteAuthKey={secrets.token_urlsafe(16)}",
                # Queries return a point at once, not 30 s later.
                "-search.latencyOffset=0s",
                "-memory.allowedBytes=256MB",
            ],
            log_path=self.directory / "victoria-metrics.log",
        )
        super().__init__(process, lambda: loopback.answers(self.port, "/health"))

    @property
    def url(self) -> str:
        """Base URL, for ``MESH_INFLUX_URL``."""
        return f"http://{loopback.HOST}:{self.port}"

    def rows_inserted(self) -> int:
        """Return the number of field values received since the start.

        A value that arrives twice counts twice. The number is up to a second old.

        Raises:
            OSError: the server does not respond.
        """
        page = loopback.request("GET", self.port, "/metrics")
        return sum(int(float(value)) for value in _ROWS_INSERTED.findall(page))


def unavailable_reason() -> str | None:
    """Return why Triton cannot run on this machine now; None if it can."""
    if reason := triton_unavailable():
        return reason
    try:
        require("triton", "asking a model")
    except ConfigError as error:
        return f"{error.key} {error.expected}"
    libraries = missing("triton")
    if libraries and not can_be_had(libraries):
        names = ", ".join(Path(library.path).name for library in libraries)
        return f"its models need {names}, and this Python comes without"
    if libraries or not _SERVER.is_dir():
        return f"it is not installed; {_INSTALL} does that"
    return None


class Triton(Server):
    """A Triton server on loopback, with HTTP only.

    It loads all models at the start. Models can be loaded and unloaded while it runs.

    Args:
        directory: for log and backends; created if missing.
        repositories: directories of models; each model must be in only one of them.
        port: TCP port; by default a free one.
    """

    def __init__(
        self, directory: Path, repositories: Sequence[Path], *, port: int | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.port = loopback.free_port() if port is None else port
        self._backends = self.directory / "backends"
        self._repositories = {
            self.directory / f"models-{number}": each.absolute()
            for number, each in enumerate(repositories)
        }
        self._shared_memory = f"mesh_triton_{self.port}_"
        process = Process(
            "tritonserver",
            [
                _SERVER / "bin" / "tritonserver",
                # Paths in the working directory: a model is started by a shell, to
                # which Triton gives them without quotation marks.
                *(f"--model-repository={link.name}" for link in self._repositories),
                f"--backend-directory={self._backends.name}",
                "--model-control-mode=explicit",
                "--load-model=*",
                "--disable-auto-complete-config",
                f"--http-address={loopback.HOST}",
                f"--http-port={self.port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
                f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
                # An open connection of a client delays the exit by this time.
                "--exit-timeout-secs=5",
            ],
            log_path=self.directory / "triton.log",
            cwd=self.directory,
            env={
                **os.environ,
                # Models run in the first Python on the PATH, which needs its own
                # shared library: with one of another patch level, such as Debian's,
                # they fail in strange ways.
                "PATH": f"{TRITON_VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(_PACKAGES),
                "LD_LIBRARY_PATH": os.pathsep.join(map(str, _LIBRARIES)),
            },
        )
        super().__init__(
            process, lambda: loopback.answers(self.port, "/v2/health/ready")
        )

    @property
    def url(self) -> str:
        """Address, for ``MESH_TRITON_URL``."""
        return f"{loopback.HOST}:{self.port}"

    @override
    def start(self, within_seconds: float = 300.0) -> None:
        """Start the server and wait until it has loaded its models.

        Raises:
            ProcessFailed: it is not installed, or did not start; then the text has the
                end of its log.
        """
        if not _SERVER.is_dir():
            message = f"tritonserver is not installed; {_INSTALL} does that"
            raise ProcessFailed(message)
        self._link_files()
        super().start(within_seconds)

    @override
    def stop(self) -> None:
        """Kill the server: it has nothing to lose, and a clean end takes 3 s."""
        self.kill()

    @override
    def kill(self) -> None:
        super().kill()
        self._free_shared_memory()

    def _link_files(self) -> None:
        """Link the models, and the Python backend, whose files lie in two places."""
        backend = self._backends / "python"
        backend.mkdir(parents=True, exist_ok=True)
        version = _PYTHON.removeprefix("python")
        for source in (
            *(_SERVER / "backends" / "python").glob("*triton_python*"),
            *(_SERVER / "python_backend_stubs" / version).iterdir(),
        ):
            _link(backend / source.name, source)
        for link, repository in self._repositories.items():
            _link(link, repository)

    def _free_shared_memory(self) -> None:
        """Remove the shared memory of a killed server, a megabyte per model."""
        shared = Path("/dev/shm")  # noqa: S108 - where Linux has shared memory
        for region in shared.glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
