"""`meshtasks demo`, as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import processes_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
MESHTASKS = Path(sys.executable).with_name("meshtasks")


def demo(state: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [MESHTASKS, "demo", f"--state={state}", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_short_run_balances_and_leaves_nothing_running(tmp_path: Path) -> None:
    state = tmp_path / "demo"
    with demo(state, "--for=5", "--rate=100") as run:
        output, _ = run.communicate(timeout=110)

    assert run.returncode == 0, output
    assert re.search(r"^messages +500 published and confirmed$", output, re.MULTILINE)
    found = re.search(
        r"It balances: ([\d,]+) records published = ([\d,]+) stored \+ (\d+) dead-",
        output,
    )
    assert found, output
    published, stored, dead = (int(text.replace(",", "")) for text in found.groups())
    assert published == stored + dead
    assert stored > 500  # some messages are arrays
    assert dead >= 5  # one message in a hundred is bad
    assert processes_of(tmp_path) == []
    assert (state / "log" / "worker-ingest.log").exists()


def test_ctrl_c_stops_what_was_started(tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as run:
        wait_until(
            lambda: any("beam.smp" in line for line in processes_of(tmp_path)),
            20.0,
            "RabbitMQ to start",
        )
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)

    assert run.returncode == 130, output
    assert "interrupted" in output
    assert processes_of(tmp_path) == []
