"""A private PostgreSQL server."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import psycopg

from meshtasks.demo import loopback
from meshtasks.demo.packages import postgresql_programs
from meshtasks.demo.process import Process

_numbers = itertools.count()
#: What a crash of the machine would leave is of no interest here.
_FAST = ("fsync=off", "full_page_writes=off", "max_connections=50")


def postgres_unavailable() -> str | None:
    """Why no PostgreSQL can be started here; None if one can."""
    if postgresql_programs() is None:
        return "PostgreSQL is not installed (Debian's package postgresql)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses to run as root, and there is no setpriv"
    return None


class Postgres:
    """A PostgreSQL server on loopback, with a database for every test.

    Raises:
        FileNotFoundError: it is not installed.
    """

    def __init__(self) -> None:
        programs = postgresql_programs()
        if programs is None:
            raise FileNotFoundError(postgres_unavailable())
        self.port = loopback.free_port()
        self.password = secrets.token_urlsafe(12)
        # Its user may not enter the directory of the tests.
        self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._prefix = self._as_other_user() if os.geteuid() == 0 else []
        self._programs = programs
        settings = (f"port={self.port}", "unix_socket_directories=", *_FAST)
        self.process = Process(
            "postgres",
            [
                *self._prefix,
                programs / "postgres",
                *("-D", self._data, "-h", loopback.HOST),
                *itertools.chain.from_iterable(("-c", each) for each in settings),
            ],
            log_path=self._directory / "log" / "postgres.log",
            cwd=self._directory,
        )

    def _as_other_user(self) -> list[str]:
        """The server refuses to run as root."""
        user = "nobody"
        with suppress(KeyError):
            user = pwd.getpwnam("postgres").pw_name
        entry = pwd.getpwnam(user)
        os.chown(self._directory, entry.pw_uid, entry.pw_gid)
        return [
            "setpriv",
            f"--reuid={entry.pw_uid}",
            f"--regid={entry.pw_gid}",
            "--clear-groups",
        ]

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def url(self, database: str, password: str | None = None) -> str:
        """What ``MESH_STATE_URL`` is for a database."""
        account = f"mesh:{password or self.password}"
        return f"postgresql+psycopg://{account}@{loopback.HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        if not self._data.exists():
            self._initialize()
        self.process.start()
        self.process.wait_ready(self._answers, within_seconds=60)

    def stop(self) -> None:
        """End it in order, whoever is connected."""
        os.kill(self.process.pid, signal.SIGINT)
        self.process.stop()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()

    def close(self) -> None:
        """End it, and remove what it kept."""
        self.process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def new_database(self, template: str = "template0") -> str:
        """Make a database; returns its name."""
        name = f"mesh_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement."""
        with closing(self.connect(database)) as connection:
            connection.execute(statement)

    def connect(self, database: str) -> psycopg.Connection:
        """A connection without transactions."""
        url = re.sub(r"\+psycopg", "", self.url(database))
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def _initialize(self) -> None:
        secret = self._directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # in a directory of its user
        command = [
            *self._prefix,
            self._programs / "initdb",
            *("-D", self._data, "-U", "mesh", "--auth", "scram-sha-256"),
            *("--pwfile", secret, "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        ]
        done = subprocess.run(
            list(map(str, command)),
            cwd=self._directory,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        secret.unlink()

    def _answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return self.process.running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
