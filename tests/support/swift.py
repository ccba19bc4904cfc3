"""OpenStack Swift with its S3 front: a real object store that checks signatures."""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Self

from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from tests.support.environments import SWIFT_VENV
from tests.support.s3 import S3Target
from tests.support.waiting import PATIENCE_SECONDS

#: -P: this directory's modules are not Swift's to import.
_LAUNCHER = (
    str(SWIFT_VENV / "bin" / "python"),
    "-P",
    str(Path(__file__).with_name("swiftd.py")),
)
_STORAGE = ("account", "container", "object")
#: Swift writes the access key as account and user.
_ACCESS_KEY = "mesh:store"
_SECRET_KEY = "mesh-store-secret"

_SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = mesh
swift_hash_path_suffix = tests

[storage-policy:0]
name = default
default = yes
"""

_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
# No worker processes: the server's own process serves.
workers = 0
user = {user}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
fallocate_reserve = 0
log_level = WARNING
# Without it, log lines would go to the machine's syslog.
log_address = /nonexistent
"""

_STORAGE_CONF = """
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY_CONF = """
[pipeline:main]
pipeline = catch_errors healthcheck listing_formats bulk s3api tempauth slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
check_bucket_owner = false

[filter:tempauth]
use = egg:swift#tempauth
user_mesh_store = {secret} .admin

[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def swift_unavailable() -> str | None:
    """Why Swift cannot keep objects where tests have their files; None if it can."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.fileno(), "user.swift.metadata", b"0")
        except OSError as error:
            where = tempfile.gettempdir()
            return f"it needs extended attributes of files, and {where}: {error}"
    return None


class Swift:
    """Swift's four servers, one copy of everything, on loopback.

    Args:
        directory: where it keeps data, configuration and logs; its file system
            must support extended attributes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._ports = {kind: loopback.free_port() for kind in (*_STORAGE, "proxy")}
        self._processes = [
            Process(
                f"swift {kind} server",
                [*_LAUNCHER, kind, str(self.directory)],
                log_path=self.directory / f"{kind}.log",
            )
            for kind in self._ports
        ]

    @property
    def target(self) -> S3Target:
        """Where clients find it."""
        endpoint = f"{loopback.HOST}:{self._ports['proxy']}"
        return S3Target(endpoint, _ACCESS_KEY, _SECRET_KEY)

    def start(self, within_seconds: float = PATIENCE_SECONDS) -> None:
        """Start the servers and wait until they answer.

        Raises:
            ProcessFailed: one did not; the text carries the end of its log.
        """
        if not (self.directory / "swift.conf").exists():
            self._write_files()
        try:
            for process in self._processes:
                process.start()
            for process, port in zip(
                self._processes, self._ports.values(), strict=True
            ):
                process.wait_ready(partial(_answers, port), within_seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the servers in order."""
        for process in self._processes:
            process.stop()

    def kill(self) -> None:
        """End the servers as a crash would (SIGKILL)."""
        for process in self._processes:
            process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_files(self) -> None:
        here = self.directory
        (here / "devices" / "disk").mkdir(parents=True)
        for kind, port in self._ports.items():
            confs = _COMMON + (_PROXY_CONF if kind == "proxy" else _STORAGE_CONF)
            text = confs.format(
                kind=kind,
                port=port,
                directory=here,
                user=getpass.getuser(),
                secret=_SECRET_KEY,
            )
            (here / f"{kind}-server.conf").write_text(text, encoding="utf-8")
        ports = [str(self._ports[kind]) for kind in _STORAGE]
        subprocess.run([*_LAUNCHER, "rings", str(here), *ports], check=True)
        (here / "swift.conf").write_text(_SWIFT_CONF, encoding="utf-8")


def _answers(port: int) -> bool:
    try:
        loopback.request("GET", port, "/healthcheck", timeout_seconds=1.0)
    except loopback.HTTPFailed:
        return True  # the storage servers know no such page, but they answer
    except OSError:
        return False
    return True
