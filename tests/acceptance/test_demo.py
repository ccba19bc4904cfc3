"""`meshtasks demo`, as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from meshtasks.demo.servers import unavailable_reason
from tests.support.inference import REQUESTS
from tests.support.processes import processes_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
QUEUES = {
    *("home.events.state_changes", "home.events.automations"),
    *("sensors.temperature", "sensors.humidity", "sensors.motion"),
    *("metrics.system", "metrics.application"),
    *("ai.inference.requests", "ai.inference.results"),
    *("alerts.critical", "alerts.notifications"),
    *("archive.events", "archive.metrics", "dead.letter.queue"),
}
MESHTASKS = Path(sys.executable).with_name("meshtasks")


def demo(
    state: Path,
    *options: str,
    directory: Path = ROOT,
    env: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [MESHTASKS, "demo", f"--state={state}", *options],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def number(text: str) -> int:
    return int(text.replace(",", ""))


def queues_in(output: str) -> dict[str, tuple[int, int, int]]:
    """Messages in, done and dead of each queue of the summary."""
    rows = re.findall(
        r"^([a-z._]+) +([\d,]+) +([\d,]+) +([\d,]+)  ", output, re.MULTILINE
    )
    return {
        queue: (number(came), number(done), number(dead))
        for queue, came, done, dead in rows
        if queue in QUEUES
    }


def test_a_short_run_of_the_wheel_balances_and_leaves_nothing_running(
    tmp_path: Path, wheel_env: dict[str, str]
) -> None:
    state = tmp_path / "demo"
    directory = tmp_path / "empty"
    directory.mkdir()
    (directory / ".mesh").symlink_to(ROOT / ".mesh")  # Triton, which is large
    options = ("--for=5", "--rate=250")
    with demo(state, *options, directory=directory, env=wheel_env) as run:
        output, _ = run.communicate(timeout=300)

    assert run.returncode == 0, output
    assert re.search(
        r"^messages +[\d,]+ published and confirmed$", output, re.MULTILINE
    )
    found = re.search(
        r"It balances: ([\d,]+) records published = ([\d,]+) stored \+ (\d+) dead-",
        output,
    )
    assert found, output
    published, stored, dead = map(number, found.groups())
    assert published == stored + dead
    # Some messages are arrays. On a machine that is busy there may be few.
    enough = stored > 1_000
    queues = queues_in(output)
    assert set(queues) == QUEUES
    # Nobody asks where no Triton runs, and nobody publishes to these two.
    unasked = {REQUESTS} if unavailable_reason() else set()
    without_bad_ones = {"archive.events", "archive.metrics", *unasked}
    for queue, (came_in, done, died) in queues.items():
        assert came_in == done + died, queue
        # Of ten bad messages each kind of record has one.
        assert not enough or died >= 1 or queue in without_bad_ones, queue
    assert processes_of(tmp_path) == []
    assert (state / "log" / "worker-house.log").exists()


def test_ctrl_c_stops_what_was_started(tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as run:
        wait_until(
            lambda: any("beam.smp" in line for line in processes_of(tmp_path)),
            20.0,
            "RabbitMQ to start",
        )
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=300)

    assert run.returncode == 130, output
    assert "interrupted" in output
    assert processes_of(tmp_path) == []
