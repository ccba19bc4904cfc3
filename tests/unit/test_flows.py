"""Flows of installed packages, and what cannot be one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from pydantic_core import core_schema

from meshtasks.amqp.queues import QUEUES
from meshtasks.celery import create_app
from meshtasks.config.environment import Environment
from meshtasks.config.settings import ConfigFile, Settings, load_settings
from meshtasks.errors import ConfigError
from meshtasks.flows.contract import Arguments, Command, Flow, Handler
from meshtasks.flows.diagnosis import Check, Detail, Doubt, Verdict
from meshtasks.flows.loading import GROUP, load_flows
from meshtasks.flows.sinks import SinkKey
from meshtasks.gateway.app import create_gateway
from meshtasks.gateway.context import Context
from meshtasks.observation.verdicts import Verdicts
from meshtasks.testing import message
from tests.support.command import Command as Program
from tests.support.command import command

ROOT = Path(__file__).parents[2]

Install = Callable[..., None]


class Tides(BaseModel):
    """tides.yaml."""

    harbour: str = "nowhere"


TIDES = ConfigFile("tides.yaml", Tides)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Installs a package whose entry point is this object or this text."""
    load_flows.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)

    def installed(flow: Any, value: str = "tides:FLOW", name: str = "tides") -> None:
        directory = tmp_path / "mesh_tides-1.2.dist-info"
        directory.mkdir()
        sys.modules.pop("tides", None)
        (directory / "METADATA").write_text("Name: mesh-tides\nVersion: 1.2\n")
        (directory / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
        source = flow if isinstance(flow, str) else "FLOW = None\n"
        (tmp_path / "tides.py").write_text(source)
        if not isinstance(flow, str):
            monkeypatch.setattr(metadata.EntryPoint, "load", lambda _: flow)

    yield installed
    load_flows.cache_clear()


def handler(queue: str) -> Handler:
    return Handler(queue, lambda *_: [], dict[str, Any], ())


async def later(*_: object) -> list[Any]:
    """Handle nothing, in a way that no worker waits for."""
    return []


class OfPydantic1:
    """Is treated by pydantic like a model of its version 1."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        """Warn as pydantic does for such a model, and accept it."""
        warnings.warn("Mixing V1 models and V2 models is not supported", stacklevel=2)
        return core_schema.any_schema()


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (
            "raise KeyError('no tide table')\n",
            "cannot be loaded: KeyError: 'no tide table' (tides.py, line 1)",
        ),
        (
            "import no_such_module\n",
            "tides:FLOW cannot be loaded: ModuleNotFoundError: No module named",
        ),
        ("raise SystemExit(0)\n", "cannot be loaded: SystemExit: 0 (tides.py, line 1)"),
        (
            "def f(:\n",
            "cannot be loaded: SyntaxError: invalid syntax (tides.py, line 1)",
        ),
        (
            "class Odd(Exception):\n __str__ = lambda _: 1 / 0\nraise Odd\n",
            "Odd: its text cannot be made (ZeroDivisionError) (tides.py, line 3)",
        ),
        ("FLOW = 'sea'\n", "expected tides:FLOW to be a Flow, got str"),
        (
            Flow("tides", handlers=(len,)),  # type: ignore[arg-type]
            "expected handlers to be a tuple of Handler, got builtin_function",
        ),
        (
            Flow("tides", handlers=(Handler("tides", len, object(), ()),)),  # type: ignore[arg-type]
            "record of the handler of tides is no type of records",
        ),
        (
            Flow("tides", handlers=(Handler("tides", len, dict, ("disk",)),)),  # type: ignore[arg-type]
            "expected sinks of the handler of tides to be a tuple of SinkKey, got str",
        ),
        (
            Flow("tides", handlers=(replace(handler("tides"), handle=later),)),  # type: ignore[arg-type]
            "of a batch and sinks that returns a list, but it is asynchronous",
        ),
        (
            Flow("tides", handlers=(replace(handler("tides"), handle=lambda _: []),)),  # type: ignore[arg-type, misc]
            "of a batch and sinks (too many positional arguments)",
        ),
        (
            Flow("tides", handlers=(replace(handler("tides"), timer=print),)),  # type: ignore[arg-type]
            "expected timer of the handler of tides to be a Timer, got builtin",
        ),
        (
            Flow("tides", handlers=(replace(handler("tides"), record=OfPydantic1),)),
            "record of the handler of tides is no type of records: UserWarning: Mixing",
        ),
        (
            Flow("tides", files=(ConfigFile("tides.yaml", dict),)),
            "expected the model of tides.yaml to be a class of pydantic's BaseModel",
        ),
        (
            Flow("tides", commands=(Command("ebb", Tides, print, {"admin"}),)),  # type: ignore[arg-type]
            "expected arguments of the command ebb to be a class of Arguments",
        ),
        ("", "tides:FLOW cannot be loaded: AttributeError"),
        (
            Flow("tides", handlers=(handler("sensors.temperature"),)),
            "queue sensors.temperature belongs to the flow readings already",
        ),
        (
            Flow("tides", handlers=(handler("tides"), handler("tides"))),
            "queue tides has two handlers",
        ),
        (
            Flow("alerts"),
            "expected another name: there is the flow alerts already",
        ),
        (
            Flow("tides", files=(ConfigFile("rules.yaml", Tides),)),
            "file rules.yaml belongs to the flow readings already",
        ),
        (
            Flow("tides", sinks=(SinkKey("triton", lambda _: None),)),
            "sink triton belongs to the flow inference already",
        ),
    ],
)
def test_a_flow_that_cannot_be_used_names_its_package(
    install: Install, flow: Any, expected: str
) -> None:
    install(flow)

    with pytest.raises(ConfigError) as raised:
        load_flows()

    assert expected in str(raised.value)
    assert str(raised.value).startswith("package mesh-tides 1.2: flow tides: ")


def test_an_installed_flow_is_as_a_built_in_one(install: Install) -> None:
    flow = Flow("tides", handlers=(handler("tides.level"),), files=(TIDES,))
    install(flow)

    flows = load_flows()

    assert flows.packages["tides"] == "mesh-tides 1.2"
    assert flows.packages["readings"] == ""
    assert flows.fixed["tides.level"] is flow.handlers[0]
    assert TIDES in flows.files


def test_worker_gateway_and_the_exported_interface_have_it(
    install: Install, meshtasks: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("MESH_API_TOKENS", f"n8n:trigger:{'t' * 30}")
    ebb = Command("ebb", Arguments, lambda *_: {}, frozenset({"trigger"}))
    install(Flow("tides", handlers=(handler("tides.level"),), commands=(ebb,)))
    settings, flows = load_settings(), load_flows()

    app = create_app(settings)
    context = Context.from_settings(settings, flows.handlers(settings), flows.commands)
    schema = create_gateway(context).openapi()
    exported = meshtasks("topology", "export", "--asyncapi")

    assert {"tides.level", "ebb"} <= app.tasks.keys()
    assert app.conf.task_routes["tides.level"] == {"queue": "tides.level"}
    assert "/v1/tasks/ebb" in schema["paths"]
    assert context.validator.check("metrics", "tides", b"{}") == ["tides.level"]
    assert "tides.level" in exported.stdout
    app.close()


def test_the_file_of_a_package_is_read_where_config_has_none(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text("harbour: Hull\n")
    (tmp_path / "config").mkdir()
    file = ConfigFile("tides.yaml", Tides, default=tmp_path / "default.yaml")
    env = Environment(config_dir=tmp_path / "config")

    assert Settings(env).read(file).harbour == "Hull"

    (tmp_path / "config" / "tides.yaml").write_text("harbour: Bergen\n")
    assert Settings(env).read(file).harbour == "Bergen"


@pytest.fixture
def meshtasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The console script with a mesh that has the queue tides.level."""
    config = tmp_path / "config"
    config.mkdir()
    for file in (ROOT / "config").glob("*.yaml"):
        (config / file.name).write_bytes(file.read_bytes())
    topology = config / "topology.yaml"
    text = topology.read_text().replace(
        "\nqueues:\n", "\nqueues:\n  - name: tides.level\n", 1
    )
    text = text.replace(
        "\nbindings:\n",
        "\nbindings:\n  - {exchange: metrics, queue: tides.level, "
        'routing_key: "tides.#"}\n',
        1,
    )
    topology.write_text(text)
    environment = Environment(config_dir=config, state_dir=tmp_path / "state")
    return command(environment, monkeypatch, capsys)


def test_config_check_and_doctor_have_what_an_installed_flow_reports(
    install: Install, meshtasks: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    detail = Detail("station", "Hull, by the pier", {"name": "Hull"})
    flow = Flow(
        "tides",
        handlers=(handler("tides.level"),),
        checks=lambda _: [Check("gauge", lambda: Verdict("warning", "it is dry"))],
        doubts=lambda *_: [Doubt("warning", QUEUES, "queues", "too high")],
        explain=lambda *_: [detail],
    )
    install(flow)

    checked = meshtasks("config", "check")
    arguments = ("--explain", "tides.level", "--exchange", "metrics")
    explained = meshtasks("config", "check", *arguments)
    as_json = meshtasks("config", "check", "--json", *arguments)
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://nobody@127.0.0.1:1/none")
    examined = meshtasks("doctor", "--json", "--within", "5")
    listed = meshtasks("flow", "list")

    assert "warning: queues: too high" in checked.stdout
    assert "no handler for tides.level" not in checked.stdout
    assert "flow      tides\n" in explained.stdout
    assert "station   Hull, by the pier\n" in explained.stdout
    (queue,) = json.loads(as_json.stdout)["queues"]
    assert queue["stations"] == [{"name": "Hull"}]
    gauge = next(c for c in json.loads(examined.stdout) if c["check"] == "gauge")
    assert (gauge["state"], gauge["text"]) == ("warning", "it is dry")
    assert "tides        mesh-tides 1.2" in listed.stdout


def test_a_broken_flow_stops_commands_with_one_message(
    install: Install, meshtasks: Program
) -> None:
    install("1 / 0\n")

    result = meshtasks("flow", "list")
    checked = meshtasks("config", "check")

    assert (result.exit_code, checked.exit_code) == (78, 78)
    assert result.stderr == (
        "meshtasks: package mesh-tides 1.2: flow tides: tides:FLOW cannot be loaded: "
        "ZeroDivisionError: division by zero (tides.py, line 1)\n"
    )
    assert "package mesh-tides 1.2: error: flow tides" in checked.stdout


def test_an_entry_point_that_names_nothing_is_refused(install: Install) -> None:
    install("FLOW = None\n", value="not a place")

    with pytest.raises(ConfigError, match="flow tides: expected module:attribute, got"):
        load_flows()


def broken(*_: object) -> Iterator[Any]:
    """Fail once somebody looks at what it gives."""
    raise KeyError("no such key")
    yield


@pytest.mark.parametrize("part", ["validate", "checks", "doubts", "explain"])
def test_what_a_flow_raises_later_names_its_package_as_well(
    install: Install, part: str
) -> None:
    parts: dict[str, Any] = {part: broken}
    install(Flow("tides", **parts))
    flow = load_flows().flows[-1]

    with pytest.raises(ConfigError) as raised:
        getattr(flow, part)(None)

    expected = f"package mesh-tides 1.2: flow tides: {part} failed: KeyError: 'no such"
    assert str(raised.value).startswith(expected)
    assert "(test_flows.py, line " in str(raised.value)


def test_what_a_plugin_prints_while_it_is_loaded_is_no_answer_of_a_command(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "from meshtasks.flows.contract import Flow\n"
        "print('welcome')\n"
        "FLOW = Flow('tides')\n"
    )

    load_flows()

    assert capsys.readouterr() == ("", "welcome\n")


def test_a_message_that_its_flow_fails_to_judge_is_left_to_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = "sensors.motion"
    failing = replace(handler(queue), validate=lambda *_: {0: 1 / 0})
    verdicts = Verdicts(Settings(Environment()), {queue: failing})

    assert [*verdicts.faults(message(queue, queue, {"motion": True}))] == []
    assert "validate of the handler of sensors.motion failed: ZeroDivision" in (
        caplog.text
    )


def test_a_file_that_is_nowhere_is_missing_in_the_configuration(tmp_path: Path) -> None:
    settings = Settings(Environment(config_dir=tmp_path))

    with pytest.raises(ConfigError, match="there is no such file") as raised:
        settings.read(TIDES)

    assert raised.value.source == str(tmp_path / "tides.yaml")


def test_the_model_of_a_flow_that_fails_is_a_fault_of_its_file(tmp_path: Path) -> None:
    class Broken(Tides):
        @field_validator("harbour")
        @classmethod
        def known(cls, harbour: str) -> str:
            charts: dict[str, str] = {}
            return charts[harbour]

    (tmp_path / "tides.yaml").write_text("harbour: Hull\n")
    settings = Settings(Environment(config_dir=tmp_path))

    with pytest.raises(ConfigError, match=r"tides\.yaml: .* KeyError: 'Hull'"):
        settings.read(ConfigFile("tides.yaml", Broken))


def test_a_handler_of_a_queue_that_has_no_records_is_warned_of(
    install: Install, meshtasks: Program
) -> None:
    install(Flow("tides", handlers=(handler("dead.letter.queue"),)))

    checked = meshtasks("config", "check")

    assert "dead.letter.queue has a handler, but is no queue of records" in (
        checked.stdout
    )


@pytest.mark.parametrize("name", ["sensors", "kinds", "tides"])
def test_a_name_that_the_mesh_uses_already_is_none_for_a_package(
    meshtasks: Program, tmp_path: Path, name: str
) -> None:
    topology = tmp_path / "config" / "topology.yaml"
    topology.write_text(topology.read_text().replace("tides.level", "tides.records"))

    result = meshtasks("flow", "new", name, "--into", tmp_path)

    assert result.exit_code == 2
    assert f"{name}" in result.stderr
    assert "already; choose another name" in result.stderr
    assert not (tmp_path / f"mesh-{name}").exists()


@pytest.mark.parametrize("name", ["Tides", "3tides", "ti-des", "tides_", "null", ""])
def test_a_name_that_no_package_can_have_is_wrong_usage(
    meshtasks: Program, tmp_path: Path, name: str
) -> None:
    result = meshtasks("flow", "new", name, "--into", tmp_path / "made")

    assert result.exit_code == 2
    assert "cannot be the name of a flow" in result.stderr
    assert not (tmp_path / "made").exists()


def test_a_directory_that_exists_is_left_alone(
    meshtasks: Program, tmp_path: Path
) -> None:
    (tmp_path / "mesh-tides").mkdir()

    result = meshtasks("flow", "new", "tides", "--into", tmp_path)

    assert result.exit_code == 2
    assert list((tmp_path / "mesh-tides").iterdir()) == []


def test_a_flow_that_is_there_already_is_not_written_again(
    meshtasks: Program, tmp_path: Path
) -> None:
    result = meshtasks("flow", "new", "alerts", "--into", tmp_path)

    assert result.exit_code == 2
    assert "there is a flow alerts already" in result.stderr
    assert not (tmp_path / "mesh-alerts").exists()


def test_a_place_that_is_no_directory_is_named(
    meshtasks: Program, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    result = meshtasks("flow", "new", "tides", "--into", tmp_path / "file")

    assert result.exit_code == 2
    assert f"{tmp_path / 'file' / 'mesh-tides'} cannot be written" in result.stderr


def test_a_worker_loads_what_a_sink_needs_when_it_is_opened() -> None:
    """Each takes more than a megabyte in every process, and is in use by few."""
    code = (
        "import sys, meshtasks.worker.consumer\n"
        "from meshtasks.celery import create_app\n"
        "from meshtasks.config.settings import load_settings\n"
        "create_app(load_settings())\n"
        "print(*sys.modules)\n"
    )
    env = {"MESH_BROKER_URL": "amqp://x:y@localhost", "MESH_CONFIG_DIR": "config"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {
        "alembic", "apprise", "duckdb", "fastapi", "influxdb_client", "minio",
        "nicegui", "numpy", "prometheus_client", "psycopg", "pyarrow", "requests",
        "sqlalchemy", "tritonclient",
    }  # fmt: skip

    assert "meshtasks" in loaded
    assert loaded & heavy == set()
