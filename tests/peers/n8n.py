"""A real n8n on loopback, without a browser and without an owner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from tests.peers.npm import npm
from tests.peers.places import PEERS

#: n8n 2 wants Node.js 24, which npm brings as well.
NODE = "node@24"
VERSION = "n8n@2.41.1"
DIRECTORY = PEERS / "n8n"
_BIN = DIRECTORY / "node_modules" / ".bin"
_NODE_BIN = DIRECTORY / "node" / "node_modules" / "node" / "bin"

#: The first command migrates its database.
_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0
_TAIL_CHARS = 2_000


def install() -> None:
    """Install it, if need be: 3 GB, five minutes and more.

    Scripts are left out because those of packages that are not used here want to
    download programs; the driver of SQLite needs its own, and is built.

    Raises:
        InstallFailed: npm is missing or failed; the text says why.
    """
    ready = DIRECTORY / ".ready"
    wanted = f"{NODE} {VERSION}\n"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    for where in (DIRECTORY, DIRECTORY / "node"):
        where.mkdir(parents=True)
        (where / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    environment = _environment()
    npm(DIRECTORY / "node", "install", NODE, environment=environment)
    npm(DIRECTORY, "install", "--ignore-scripts", VERSION, environment=environment)
    npm(DIRECTORY, "rebuild", "sqlite3", environment=environment)
    ready.write_text(wanted, encoding="utf-8")


def _environment() -> dict[str, str]:
    """With Node.js 24 before any other."""
    return {**os.environ, "PATH": f"{_NODE_BIN}:{os.environ['PATH']}"}


class N8n:
    """One n8n with a database of its own.

    Args:
        directory: of its database, settings and logs; made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._port = loopback.free_port()
        self._environment = {
            **_environment(),
            "N8N_USER_FOLDER": str(directory),
            "N8N_LISTEN_ADDRESS": loopback.HOST,
            "N8N_PORT": str(self._port),
            "N8N_RUNNERS_BROKER_PORT": str(loopback.free_port()),
            "N8N_ENCRYPTION_KEY": "a key for tests",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
            "N8N_DISABLED_MODULES": "mcp-registry",
            "N8N_DISABLE_UI": "true",
            "DB_TYPE": "sqlite",
        }
        self._process = Process(
            "n8n",
            [_BIN / "n8n", "start"],
            log_path=directory / "n8n.log",
            env=self._environment,
            cwd=directory,
        )

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{loopback.HOST}:{self._port}"

    def import_credentials(self, *credentials: dict[str, Any]) -> None:
        """Import credentials, which it encrypts."""
        file = self._directory / "credentials.json"
        file.write_text(json.dumps(credentials), encoding="utf-8")
        self._run("import:credentials", f"--input={file}")
        file.unlink()

    def publish_workflows(self, directory: Path, ids: Mapping[str, str]) -> None:
        """Import all workflows of a directory, and publish those of these ids.

        Args:
            directory: of JSON files.
            ids: of workflows, by name.
        """
        self._run("import:workflow", "--separate", f"--input={directory}")
        for workflow_id in ids.values():
            self._run("publish:workflow", f"--id={workflow_id}")

    def start(self) -> None:
        """Boot it; published workflows are active then."""
        self._process.start()
        self._process.wait_ready(self._is_ready, _READY_SECONDS)

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()

    def log(self) -> str:
        """What it has logged."""
        return self._process.output()

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/healthz/readiness", timeout=10).ok
        except requests.ConnectionError:
            return False

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [_BIN / "n8n", *arguments],
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-_TAIL_CHARS:]
