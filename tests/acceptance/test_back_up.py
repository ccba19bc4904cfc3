"""docs/back-up.md as commands: filled, backed up, destroyed, put back, counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import chdir
from functools import partial
from pathlib import Path

from meshtasks.amqp.publisher import Publisher
from meshtasks.cli.certificates import make_certificates
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import queue_depth
from tests.support.docs import DOCS, snippets
from tests.support.readings import message
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

ROOT = Path(__file__).parents[2]
QUEUES = ("sensors.temperature", "archive.events", "archive.metrics")
GOOD, BAD = 500, 20
DEAD = "dead.letter.queue"
_STORE = "http://127.0.0.1:8428"


def commands(heading: str, victoria: VictoriaMetrics) -> str:
    """The first block of commands of a section."""
    page = DOCS / "back-up.md"
    begins = page.read_text("utf-8").splitlines().index(f"## {heading}")
    text = next(each.text for each in snippets(page) if each.line > begins)
    assert _STORE in text
    return text.replace(_STORE, victoria.url)


class House:
    """A mesh in a directory, as `meshtasks init` makes one.

    Args:
        directory: made.
        env: variables of its servers.
    """

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env | {
            "MESH_CONFIG_DIR": "config",
            "MESH_STATE_DIR": ".mesh/state",
            "MESH_ARCHIVE_URL": f"file://{directory}/.mesh/archive",
        }
        self.url = env["MESH_BROKER_URL"]
        shutil.copytree(ROOT / "config", directory / "config")
        lines = [f"{name}={value}\n" for name, value in self.env.items()]
        (directory / ".env").write_text("".join(lines))
        with chdir(directory):
            make_certificates()
        (directory / ".mesh/compose/rabbitmq.json").write_text("{}")

    def run(self, script: str) -> str:
        """What a script writes that is run there."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=self.directory,
            env={"PATH": path, "LANG": "C.UTF-8"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=300,
        ).stdout

    def publish(self, numbers: Iterable[int], body: bytes | None = None) -> None:
        """Publish readings, or something else in their place."""
        publisher = Publisher(self.url)
        publisher.publish([message(number, body) for number in numbers])
        publisher.close()

    def work(self, victoria: VictoriaMetrics, points: int) -> None:
        """Let a worker handle what waits, until the store has so many points."""
        with running(Worker(self.directory, self.env, *QUEUES)) as worker:
            wait_until(lambda: count_samples(victoria) == points, 300, "the points")
            for name, left in {**dict.fromkeys(QUEUES, 0), DEAD: BAD}.items():
                wait_until(partial(self._has, name, left), 300, f"{left} in {name}")
            assert worker.stop() == 0

    def _has(self, queue: str, count: int) -> bool:
        return queue_depth(self.url, queue) == count

    def state(self) -> list[str]:
        """The rows of its state."""
        return sorted(self.run("meshtasks state export -").splitlines()[1:])

    def archived(self) -> str:
        """What its archive has."""
        return self.run("meshtasks archive verify").splitlines()[-1]

    def authority(self) -> tuple[bytes, int]:
        """The key of its authority, and what others may do with it."""
        file = self.directory / ".mesh/certificates/ca.key"
        return file.read_bytes(), file.stat().st_mode & 0o077


def test_everything_that_was_backed_up_is_there_again(
    mesh_env: dict[str, str],
    rabbitmq: RabbitMQ,
    mesh_vhost: str,
    victoria: VictoriaMetrics,
    tmp_path: Path,
) -> None:
    house = House(tmp_path / "house", mesh_env)
    house.publish(range(GOOD))
    house.publish(range(GOOD, GOOD + BAD), b"warm")
    house.work(victoria, GOOD)
    house.run("meshtasks alerts silence location=attic --for 2h")
    before = house.state(), house.archived(), house.authority()
    assert f"{GOOD} records" in before[1]

    house.run(commands("While everything runs", victoria))

    (house.directory / "backup").rename(tmp_path / "elsewhere")
    shutil.rmtree(house.directory)
    rabbitmq.delete_vhost(mesh_vhost)
    rabbitmq.create_vhost(mesh_vhost)
    victoria.kill()
    shutil.rmtree(victoria.directory)
    victoria.start()
    assert count_samples(victoria) == 0
    house.directory.mkdir()
    (tmp_path / "elsewhere").rename(house.directory / "backup")

    house.run(commands("Restore", victoria))

    wait_until(lambda: count_samples(victoria) == GOOD, 300, "the points")
    assert (house.state(), house.archived(), house.authority()) == before
    assert queue_depth(house.url, DEAD) == BAD
    # What comes once more is neither stored nor archived twice, and the house goes on.
    house.publish([*range(20), GOOD + BAD])
    house.work(victoria, GOOD + 1)
    assert f"{GOOD + 1} records" in house.archived()
