"""What an extra brings is asked for where it is needed, and nowhere else."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import meshtasks.worker
from meshtasks.celery import create_app
from meshtasks.cli import COMMANDS
from meshtasks.cli.demo import demo
from meshtasks.cli.gateway import gateway
from meshtasks.config.environment import Environment
from meshtasks.config.extras import MODULES, Extra, require
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.handler import NOTIFIER
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.inference.client import TRITON
from meshtasks.flows.sinks import Sinks
from meshtasks.producers.homeassistant.__main__ import homeassistant
from meshtasks.worker.mesh import mesh_of
from meshtasks.worker.program import selected, unavailable_reason
from tests.support.handling import HANDLERS

_PROJECT = tomllib.loads(
    (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
_EXTRAS: dict[str, list[str]] = _PROJECT["optional-dependencies"]


def names_of(requirements: list[str]) -> set[str]:
    names = (re.split(r"[\[<>=; ]", each, maxsplit=1)[0] for each in requirements)
    return {each.lower().replace("_", "-") for each in names}


def lacks(extra: Extra) -> Any:
    """The one sentence: what is missing, and how it is installed."""
    module = MODULES[extra][0]
    return pytest.raises(
        ConfigError,
        match=rf"{module}: is not installed; .+ needs it: "
        rf"pip install 'meshtasks\[{extra}\]'$",
    )


@pytest.fixture(scope="module")
def distributions() -> Mapping[str, list[str]]:
    """Those that are installed here, by module."""
    return packages_distributions()


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Any:
    def block(extra: Extra) -> None:
        for module in MODULES[extra]:
            monkeypatch.setitem(sys.modules, module, None)

    return block


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environment = Environment(
        _env_file=None,
        broker_url="amqp://127.0.0.1:1//",
        state_dir=tmp_path,
        archive_url=f"file://{tmp_path}/archive",
        receivers={"phone": "ntfy://127.0.0.1/topic"},
    )
    return Settings(environment)


def test_all_is_all_of_them() -> None:
    (everything,) = _EXTRAS["all"]

    assert everything == f"meshtasks[{','.join(sorted(MODULES))}]"
    assert _EXTRAS.keys() == {*MODULES, "all", "dev", "docs"}


@pytest.mark.parametrize("extra", MODULES)
def test_the_modules_of_an_extra_are_those_it_installs(
    extra: Extra, distributions: Mapping[str, list[str]]
) -> None:
    of_modules = [distributions[each][0] for each in MODULES[extra]]

    own = names_of(_EXTRAS[extra]) - {"meshtasks"}  # another extra
    assert names_of(of_modules) == own
    require(extra, "this test")


def test_the_core_imports_no_extra() -> None:
    code = f"""
import sys
for module in {[each for modules in MODULES.values() for each in modules]}:
    sys.modules[module] = None
import meshtasks.celery, meshtasks.cli, meshtasks.producers.__main__ as producers
meshtasks.cli.loaded()
for name in producers.SUMMARIES:
    producers.application(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "gateway" in COMMANDS


def test_a_sink_without_its_client_names_the_extra(
    settings: Settings, block: Any
) -> None:
    block("triton")
    block("alerts")
    sinks = Sinks(settings)

    with lacks("triton"):
        _ = sinks[TRITON]
    with lacks("alerts"):
        _ = sinks[NOTIFIER]


def test_an_archive_in_s3_without_its_client_names_the_extra(
    settings: Settings, block: Any
) -> None:
    block("s3")

    with lacks("s3"):
        open_store(settings.env.model_copy(update={"archive_url": "s3://mesh"}))
    open_store(settings.env).close()


def test_a_worker_refuses_a_queue_whose_client_is_missing(
    settings: Settings, block: Any
) -> None:
    mesh = mesh_of(create_app(settings, HANDLERS))
    block("triton")

    assert unavailable_reason(mesh, "sensors.temperature") is None
    with pytest.raises(ConfigError, match=r"ai\.inference\.requests .+\[triton\]"):
        selected(mesh, None, None)
    assert selected(mesh, None, ["ai.inference.requests"])


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("gateway", gateway),
        ("homeassistant", lambda: homeassistant(None)),  # type: ignore[arg-type]
    ],
)
def test_a_command_without_its_library_names_the_extra(
    block: Any, extra: Extra, command: Any
) -> None:
    block(extra)

    with lacks(extra):
        command()


def test_celery_without_flower_names_the_extra(
    block: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    block("flower")
    module = Path(meshtasks.worker.__file__).parent / "flower.py"
    command = runpy.run_path(str(module))["flower"]
    context = command.make_context("flower", ["--port=5555"])

    with pytest.raises(SystemExit, match=str(os.EX_CONFIG)):
        command.invoke(context)

    assert capsys.readouterr().err.endswith("pip install 'meshtasks[flower]'\n")


def test_a_folder_of_the_name_of_a_library_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "s3", ("no_such_library",))

    with lacks("s3"):
        require("s3", "an archive in S3")


def test_the_demo_names_all_extras_that_it_lacks(block: Any) -> None:
    block("alerts")
    block("flower")

    with pytest.raises(ConfigError, match=r"alerts, flower: .+\[alerts,flower\]"):
        demo()
