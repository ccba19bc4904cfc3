"""The console script knows its commands without importing them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshtasks.cli import COMMANDS, load, loaded, main
from meshtasks.command_help import reflow

#: Each takes as long to import as all the rest of the start, or longer.
_HEAVY = {
    "amqp", "celery", "duckdb", "fastapi", "influxdb_client", "jinja2", "kombu",
    "minio", "msgspec", "numpy", "pydantic", "requests", "rich.progress", "yaml",
    "meshtasks.amqp", "meshtasks.config", "meshtasks.flows",
}  # fmt: skip


def modules_of(*arguments: str) -> set[str]:
    """What `meshtasks …` has imported when it ends."""
    code = (
        "import atexit, sys\n"
        "from meshtasks.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_of_all_commands_imports_none_of_them(option: str) -> None:
    modules = modules_of(option)

    assert "meshtasks.cli" in modules
    assert modules & _HEAVY == set()
    assert modules & {f"meshtasks.cli.{name}" for name in COMMANDS} == set()


def test_a_command_imports_no_other() -> None:
    modules = modules_of("publish", "--help")

    assert modules & {f"meshtasks.cli.{name}" for name in COMMANDS} == {
        "meshtasks.cli.publish"
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_its_own_summary(name: str) -> None:
    command = load(name)
    reflow(command)

    assert command.help.partition("\n\n")[0] == COMMANDS[name]


def test_every_command_can_be_loaded_to_be_described() -> None:
    group = loaded()

    assert list(group.commands) == list(COMMANDS)
    assert {"list", "replay"} <= load("dlq").commands.keys()


def test_the_beginning_of_a_command_is_completed_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_MESHTASKS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "meshtasks a")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setattr(sys, "argv", ["meshtasks"])
    monkeypatch.setattr("meshtasks.cli.load", pytest.fail)
    with pytest.raises(SystemExit):
        main()

    assert capsys.readouterr().out.split() == ["alerts", "archive", "analytics"]


def test_options_of_a_command_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_MESHTASKS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "meshtasks dlq replay --sen")
    monkeypatch.setenv("COMP_CWORD", "3")
    monkeypatch.setattr(sys, "argv", ["meshtasks"])
    with pytest.raises(SystemExit):
        main()

    assert capsys.readouterr().out.split() == ["--sensor"]
