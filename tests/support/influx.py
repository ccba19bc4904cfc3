"""InfluxDB 1.6: the real storage engine, behind the write path of version 2.

It knows what VictoriaMetrics does not: types of fields, conflicts between them,
unparsable lines, missing buckets. The rewriting of the path is ours, so tests
against it prove nothing about version 2's HTTP layer.
"""

from __future__ import annotations

import http.client
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from tests.support.httpserver import Handler, HTTPServer
from tests.support.waiting import PATIENCE_SECONDS

#: Version 2's names of timestamp precisions, as version 1 spells them.
_PRECISIONS = {"ns": "n", "us": "u", "ms": "ms", "s": "s"}

_CONF = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc_port}"

[meta]
  dir = "{directory}/meta"

[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"

[monitor]
  store-enabled = false

[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
"""


@dataclass(frozen=True, slots=True)
class InfluxTarget:
    """Somewhere that takes InfluxDB 2 writes and InfluxQL questions.

    Attributes:
        url: base URL, for ``MESH_INFLUX_URL``.
        bucket: a bucket that exists.
    """

    url: str
    token: str
    org: str
    bucket: str

    def select(self, statement: str) -> list[dict[str, Any]]:
        """Rows that an InfluxQL statement gives, ``time`` in epoch nanoseconds;
        the tags of a grouped statement are columns like any other."""
        parts = urlsplit(self.url)
        query = urlencode({"db": self.bucket, "q": statement, "epoch": "ns"})
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_SECONDS)
        headers = {"Authorization": f"Token {self.token}"}
        connection.request("GET", f"/query?{query}", headers=headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        rows = []
        for series in answer["results"][0].get("series", ()):
            tags = series.get("tags", {})
            for values in series["values"]:
                row = dict(zip(series["columns"], values, strict=True))
                rows.append({**tags, **row})
        return rows


class Influx:
    """influxd 1.6 on loopback, with a front that speaks version 2's write path.

    Args:
        directory: where it keeps data, configuration and log.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.engine_port = loopback.free_port()
        conf = self.directory / "influxdb.conf"
        self._process = Process(
            "influxd",
            [shutil.which("influxd") or "influxd", "-config", conf],
            log_path=self.directory / "influxd.log",
        )
        self._front = _Front(self.engine_port)
        conf.parent.mkdir(parents=True, exist_ok=True)
        ports = {"port": self.engine_port, "rpc_port": loopback.free_port()}
        conf.write_text(_CONF.format(directory=self.directory, **ports))

    def start(self) -> None:
        """Start both and wait until they answer.

        Raises:
            ProcessFailed: influxd did not; the text carries the end of its log.
        """
        self._process.start()
        self._process.wait_ready(self._answers, PATIENCE_SECONDS)
        self._front.start()

    def stop(self) -> None:
        """End both in order."""
        self._front.stop()
        self._process.stop()

    def create_bucket(self, name: str) -> InfluxTarget:
        """Make an empty bucket."""
        statement = urlencode({"q": f'CREATE DATABASE "{name}"'})
        loopback.request("POST", self.engine_port, f"/query?{statement}")
        return InfluxTarget(self._front.url, "unchecked", "home", name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            loopback.request("GET", self.engine_port, "/ping", timeout_seconds=1.0)
        except OSError:
            return False
        return True


class _Front(HTTPServer):
    def __init__(self, engine_port: int) -> None:
        super().__init__(_RewritingHandler)
        self.engine_port = engine_port


class _RewritingHandler(Handler):
    def _forward(self) -> None:
        port = self.owner.engine_port
        connection = http.client.HTTPConnection(
            loopback.HOST, port, timeout=PATIENCE_SECONDS
        )
        names = ("Content-Encoding", "Content-Type")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        body = self.read_body()
        connection.request(self.command, _version_1_path(self.path), body, headers)
        response = connection.getresponse()
        self.answer(response.status, response.read(), dict(_kept(response)))
        connection.close()

    do_GET = do_POST = _forward  # noqa: N815 - names that http.server looks up


def _version_1_path(path: str) -> str:
    parts = urlsplit(path)
    if parts.path != "/api/v2/write":
        return path
    query = parse_qs(parts.query)
    precision = _PRECISIONS[query.get("precision", ["ns"])[0]]
    return f"/write?{urlencode({'db': query['bucket'][0], 'precision': precision})}"


def _kept(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    """The engine's headers, without those that are about its own connection."""
    own = {"content-length", "transfer-encoding", "connection", "date"}
    return [
        (name, value)
        for name, value in response.getheaders()
        if name.lower() not in own
    ]
