"""Whatever ends a program under the subreaper: nothing that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import processes_of
from tests.support.waiting import wait_until

#: Starts a process in a session of its own, as servers are, and that one starts
#: another, which does not listen. Interrupted, it ends both and says so.
PROGRAM = """
import os, signal, subprocess, sys
from meshtasks.demo.subreaper import under_subreaper

STUBBORN = "trap : TERM; echo working; while :; do sleep 0.05; done"

def work():
    script = f"sh -c '{STUBBORN}' $0 & exec sleep 600"
    command = ["sh", "-c", script, sys.argv[1]]
    child = subprocess.Popen(command, start_new_session=True)
    try:
        input()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        os.killpg(child.pid, signal.SIGKILL)
        return 7
    return 3

sys.exit(under_subreaper(work, grace_seconds=0.3))
"""


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, which works until it is told to end."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "working\n"
        wait_until(lambda: is_in_place(program), 10.0, "the keeper")
        yield program
        program.kill()


def worker_of(keeper: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
    return int(children.read_text(encoding="ascii").split()[0])


def is_in_place(keeper: subprocess.Popen[str]) -> bool:
    """Whether it is the keeper by now, and passes signals on."""
    process = Path(f"/proc/{keeper.pid}")
    status = (process / "status").read_text(encoding="ascii").splitlines()
    caught = int(next(line for line in status if line.startswith("SigCgt"))[7:], 16)
    return b"subreaper.py" in (process / "cmdline").read_bytes() and bool(
        caught & 1 << signal.SIGTERM - 1
    )


def last_words(keeper: subprocess.Popen[str]) -> str:
    """What both have said to the end; unlike communicate, it tells nobody to end."""
    assert keeper.stdout is not None
    words = keeper.stdout.read()
    keeper.wait(300)
    return words


def nothing_is_left(directory: Path) -> bool:
    return processes_of(directory) == []


def test_the_exit_code_is_that_of_the_work(keeper: subprocess.Popen[str]) -> None:
    keeper.communicate("end\n", timeout=300)

    assert keeper.returncode == 3


def test_what_the_work_leaves_behind_is_ended(
    keeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    keeper.communicate("end\n", timeout=300)

    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_so_that_the_work_ends_in_order(
    keeper: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    keeper.send_signal(number)

    assert last_words(keeper) == "interrupted\n"
    assert keeper.returncode == 7
    assert nothing_is_left(tmp_path)


def test_nothing_is_left_when_the_keeper_is_killed(
    keeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    keeper.kill()

    assert last_words(keeper) == "interrupted\n"
    wait_until(lambda: nothing_is_left(tmp_path), 30.0, "the work to end")


def test_nothing_is_left_when_the_work_is_killed(
    keeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.kill(worker_of(keeper), signal.SIGKILL)

    assert "killed by SIGKILL" in last_words(keeper)
    assert keeper.returncode == 128 + signal.SIGKILL
    assert nothing_is_left(tmp_path)


EARLY = """
import os, signal, sys
from meshtasks.demo.subreaper import under_subreaper

def work():
    try:
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        return 7

sys.exit(under_subreaper(work))
"""


def test_a_signal_before_the_keeper_is_in_place_is_passed_on() -> None:
    ended = subprocess.run([sys.executable, "-c", EARLY], timeout=300, check=False)

    assert ended.returncode == 7
