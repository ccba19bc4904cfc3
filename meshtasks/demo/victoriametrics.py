"""A private VictoriaMetrics: the embedded time-series store.

One binary, ready in a twentieth of a second (Debian's builds come without its web
pages). It takes InfluxDB 2's ``/api/v2/write`` as it is and ignores token, organisation
and bucket. The field ``celsius`` of the measurement ``temperature`` becomes the
series ``temperature_celsius``.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

from meshtasks.demo import loopback
from meshtasks.demo.process import Process, Server

_ROWS_INSERTED = re.compile(rb"^vm_rows_inserted_total\{[^}]*\} (\S+)$", re.MULTILINE)


class VictoriaMetrics(Server):
    """A VictoriaMetrics server on loopback with a data directory of its own.

    Killed, it loses the points of the last seconds: it acknowledges a write before it
    is on disk.

    Args:
        directory: where it keeps its data and its log; created when missing,
            and kept: a later server on the same directory has the same points.
        port: TCP port; a free one when not given.
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
                # An archive may be replayed years later; a shorter retention
                # would drop its points without a word.
                "-retentionPeriod=100y",
                # A point that is written twice, as after a crash, is one point.
                "-dedup.minScrapeInterval=1ms",
                # Superfluous tags would be cut off without a word.
                "-maxLabelsPerTimeseries=256",
                # Any web page that is open here could have series deleted.
                f"-deleteAuthKey={secrets.token_urlsafe(16)}",
                # Show a point as soon as it is stored, not 30 s later.
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
        """Field values it has taken since it was started.

        It counts values received, so one that arrives twice counts twice. The
        number is up to a second old.

        Raises:
            OSError: it does not answer.
        """
        page = loopback.request("GET", self.port, "/metrics")
        return sum(int(float(value)) for value in _ROWS_INSERTED.findall(page))
