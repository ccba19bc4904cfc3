"""The documentation speaks of what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.core import TyperGroup

from meshtasks.cli import loaded
from meshtasks.cli.asyncapi import DEAD_LETTER, PASSED_ON
from meshtasks.config.environment import Environment
from tests.support.topologies import shipped_topology

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

#: `meshtasks dlq list`, or a line of a shell that begins so.
_COMMAND = re.compile(
    r"(?:^ *|`)(?:[.\w/]*/)?meshtasks ((?:[a-z][a-z-]*(?: |`|$))+)", re.MULTILINE
)
_COMMANDS = loaded()


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def unknown(words: list[str]) -> str | None:
    """What a command's words name and the console script does not have."""
    command: object = _COMMANDS
    for word in words:
        if not isinstance(command, TyperGroup):
            return None
        found = command.commands.get(word)
        if found is None:
            return word
        command = found
    return None


def test_a_command_that_does_not_exist_is_told() -> None:
    assert unknown(["dlq", "list"]) is None
    assert unknown(["nonsense"]) == unknown(["dlq", "nonsense"]) == "nonsense"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_speaks_of_commands_that_exist(page: Path) -> None:
    commands = _COMMAND.findall(page.read_text(encoding="utf-8"))

    assert [each for each in commands if unknown(each.strip("` ").split())] == []


def test_every_header_is_explained_as_in_the_asyncapi_document() -> None:
    page = text_of("headers.md")
    rows = [
        f"| `{name}` | {kind} | {meaning} |"
        for name, (kind, meaning) in (PASSED_ON | DEAD_LETTER).items()
    ]

    assert [row for row in rows if row not in page] == []


def test_every_exchange_and_queue_of_the_mesh_is_explained() -> None:
    topology, page = shipped_topology(), text_of("topology.md")
    names = [each.name for each in topology.exchanges]
    names += [each.name for each in topology.queues]

    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_setting_is_explained() -> None:
    page = text_of("settings.md")
    explained = set(re.findall(r"`(MESH_[A-Z0-9_]+?)(?:__<NAME>)?`", page))

    assert {f"MESH_{name.upper()}" for name in Environment.model_fields} <= explained


def test_the_configuration_of_telegraf_reaches_queues_that_take_its_metrics() -> None:
    (snippet,) = re.findall(r"```toml\n(.*?)```", text_of("telegraf.md"), re.DOTALL)
    config = tomllib.loads(snippet)
    (output,) = config["outputs"]["amqp"]
    topology = shipped_topology()
    keys = {output["routing_key"]}
    keys |= {
        each["tags"][output["routing_tag"]]
        for inputs in config["inputs"].values()
        for each in inputs
        if "tags" in each
    }

    reached = {key: topology.handled_queues(output["exchange"], key) for key in keys}

    assert output["exchange_passive"]
    assert output["delivery_mode"] == "persistent"
    assert output["data_format"] == "influx"
    assert reached == {
        "metrics.system.telegraf": {"metrics.system"},
        "metrics.application.docker": {"metrics.application"},
    }


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet")

    done = subprocess.run(
        [*build, "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "")
    assert "meshtasks dlq replay" in (site / "cli" / "index.html").read_text("utf-8")


def test_the_composed_n8n_is_the_one_that_the_peers_run() -> None:
    composed = re.search(r"n8nio/n8n:(\S+)", (ROOT / "docker-compose.yml").read_text())
    tried = re.search(r'"n8n@(\S+)"', (ROOT / "tests/peers/n8n.py").read_text())

    assert composed
    assert tried
    assert composed[1] == tried[1]
