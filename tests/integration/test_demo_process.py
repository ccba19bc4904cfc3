"""Child processes: started, watched and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshtasks.demo.process import Process, ProcessFailed
from tests.support.processes import processes_of
from tests.support.waiting import wait_until

Make = Callable[[str], Process]

SLEEP = "echo ready; exec sleep 600"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Make]:
    """Makes a process out of a shell script; the directory is its argument."""
    with ExitStack() as made:

        def make(script: str) -> Process:
            command = ["sh", "-c", script, str(tmp_path)]
            process = Process("script", command, log_path=tmp_path / "log" / "script")
            made.callback(process.kill)
            return process

        yield make


def started(process: Process) -> Process:
    process.start()
    process.wait_ready(lambda: "ready" in process.output(), 10.0)
    return process


def test_it_runs_until_it_is_stopped(shell: Make) -> None:
    process = started(shell(SLEEP))
    assert process.running

    process.stop()

    assert not process.running


def test_stopping_lets_it_end_in_its_own_way(shell: Make) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    process = started(shell(script))

    assert process.stop() == 3
    assert process.output() == "ready\nbye\n"


def test_stopping_insists_when_it_does_not_listen(shell: Make) -> None:
    process = started(shell("trap '' TERM; echo ready; while :; do sleep 0.01; done"))

    assert process.stop(within_seconds=0.1) == -9


def test_stopping_ends_what_it_leaves_behind(shell: Make, tmp_path: Path) -> None:
    orphan = "sh -c 'while :; do sleep 0.01; done' $0 &"
    process = started(shell(f"{orphan} {SLEEP}"))

    process.stop()

    assert processes_of(tmp_path) == []


def test_killing_ends_its_children_too(shell: Make, tmp_path: Path) -> None:
    child = "sh -c 'trap \"\" TERM HUP; while :; do sleep 0.01; done' $0 &"
    process = started(shell(f"{child} {SLEEP}"))

    process.kill()

    assert processes_of(tmp_path) == []


def test_stopping_twice_is_harmless(shell: Make) -> None:
    process = started(shell(SLEEP))

    assert process.stop() == process.stop() == -15


def test_one_that_never_started_can_be_stopped(shell: Make) -> None:
    assert shell(SLEEP).stop() is None


def test_one_that_ended_by_itself_is_not_running(shell: Make) -> None:
    process = shell("exit 4")
    process.start()

    wait_until(lambda: not process.running, 10.0, "the script to end")

    assert process.stop() == 4


def test_one_that_ends_while_starting_is_reported_with_its_log(shell: Make) -> None:
    process = shell("echo no such device >&2; exit 1")
    process.start()

    with pytest.raises(ProcessFailed, match=r"(?s)ended while starting.*no such dev"):
        process.wait_ready(lambda: False, 10.0)


def test_one_that_hangs_while_starting_is_ended_and_reported_with_its_log(
    shell: Make,
) -> None:
    process = started(shell(SLEEP))

    with pytest.raises(ProcessFailed, match=r"(?s)not ready within 0\.1 s.*ready"):
        process.wait_ready(lambda: False, 0.1)
    assert not process.running


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    process = Process("ghost", [tmp_path / "ghost"], log_path=tmp_path / "log")

    with pytest.raises(ProcessFailed, match=r"ghost could not be started: .*No such"):
        process.start()


def test_a_second_one_with_the_same_log_is_refused(shell: Make) -> None:
    started(shell(SLEEP))

    with pytest.raises(ProcessFailed, match="running already"):
        shell(SLEEP).start()


def test_it_can_be_started_again_after_it_ended(shell: Make) -> None:
    process = started(shell("echo ready $$; exec sleep 600"))
    first = process.output()
    process.kill()

    started(process)

    assert process.output() != first
    assert process.log_path.read_text() == first + process.output()
