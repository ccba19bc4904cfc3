"""`topology show` and `topology export`, which need no broker."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from meshtasks.amqp.topology import Topology
from meshtasks.cli import app
from tests.support.topologies import SHIPPED, shipped_topology


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs commands with the shipped configuration and no broker."""
    monkeypatch.setenv("MESH_CONFIG_DIR", str(SHIPPED.parent))
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://user:secret@127.0.0.1:1/house")
    return CliRunner()


def everything_named(topology: Topology) -> set[str]:
    return {
        *(exchange.name for exchange in topology.exchanges),
        *(queue.name for queue in topology.all_queues),
        "amq.topic",
    }


def test_the_tree_names_everything(run: CliRunner) -> None:
    output = run.invoke(app, ["topology", "show"]).stdout

    assert [n for n in everything_named(shipped_topology()) if n not in output] == []
    assert "home.*.*.trigger → home.events.automations" in output
    assert "sensors.# → exchange sensors" in output


def test_the_flowchart_names_everything(run: CliRunner) -> None:
    output = run.invoke(app, ["topology", "show", "--mermaid"]).stdout

    assert output.startswith("flowchart LR\n")
    assert [n for n in everything_named(shipped_topology()) if n not in output] == []


def test_the_flowchart_escapes_what_mermaid_would_take_for_an_entity(
    run: CliRunner,
) -> None:
    output = run.invoke(app, ["topology", "show", "--mermaid"]).stdout

    assert 'x_archive -- "#35;" --> q_archive_events' in output


def test_the_export_is_for_the_brokers_virtual_host(run: CliRunner) -> None:
    exported = json.loads(run.invoke(app, ["topology", "export"]).stdout)

    assert exported["vhosts"] == [{"name": "house"}]
    assert {e["vhost"] for e in exported["queues"]} == {"house"}


def test_the_export_may_be_for_another_virtual_host(run: CliRunner) -> None:
    result = run.invoke(app, ["topology", "export", "--vhost", "garden"])

    assert {e["vhost"] for e in json.loads(result.stdout)["bindings"]} == {"garden"}


def test_the_export_holds_no_account_and_nothing_the_broker_declares(
    run: CliRunner,
) -> None:
    output = run.invoke(app, ["topology", "export"]).stdout
    exported = json.loads(output)

    assert exported.keys() == {"vhosts", "exchanges", "queues", "bindings"}
    assert "secret" not in output
    assert not [e for e in exported["exchanges"] if e["name"].startswith("amq.")]
