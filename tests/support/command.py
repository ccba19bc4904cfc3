"""The console script, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from meshtasks.cli import main
from meshtasks.config.environment import Environment


class Result(NamedTuple):
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


Command = Callable[..., Result]


def command(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks …`` in the mesh of that environment."""
    for name, value in variables(environment).items():
        monkeypatch.setenv(name, value)
    return script(monkeypatch, capsys)


def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> Command:
    """Runs ``meshtasks WORDS …`` in this process's environment."""

    def run(*arguments: object) -> Result:
        argv = ["meshtasks", *words, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return run


def command_in(
    env: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks …`` with these variables."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return command(Environment(), monkeypatch, capsys)


def variables(environment: Environment) -> dict[str, str]:
    """The environment as a process gets it."""
    links = environment.links.items()
    return {f"MESH_LINKS__{name.upper()}": url for name, url in links} | {
        f"MESH_{name.upper()}": (
            value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        )
        for name, value in environment
        if value is not None and not isinstance(value, dict)
    }
