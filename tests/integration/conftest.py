"""What tests of publishing need between them and the session's RabbitMQ, and the
session's gateway.

===================  ===========================================================
``proxy``            a network between a test and the session's RabbitMQ, to cut
``house``            a Home Assistant that says what a real one said
``follow``           follows that house with a producer of its events
``gateway``          the session's HTTP gateway; leave it as you found it
``gateway_url``      AMQP URL of its broker
``gateway_network``  the network between the two, to cut
``console``          a gateway with the console, and ``page`` a browser that may look at
                     it; ``home``, one that does
``environment``      a mesh whose archive is a directory
``sinks``            the sinks of that mesh, in this process
``meshtasks``        runs the console script in that mesh
===================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.flows.sinks import Sinks
from tests.conftest import ROOT
from tests.support.archive import directory_environment
from tests.support.browser import Browser
from tests.support.command import Command, command, variables
from tests.support.following import Follow, following
from tests.support.gateway import MAX_BODY_BYTES, SCOPES, Gateway, token_of
from tests.support.homeassistant import ReplayedHomeAssistant
from tests.support.meshes import declared, reconfigured
from tests.support.proxy import Proxy
from tests.support.topologies import shipped_topology


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """A proxy in front of the session's RabbitMQ."""
    with Proxy(rabbitmq.ports.amqp) as proxy:
        yield proxy


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A mesh whose archive is a directory."""
    return directory_environment(tmp_path)


@pytest.fixture
def sinks(environment: Environment) -> Iterator[Sinks]:
    """The sinks of this process."""
    with closing(Sinks(Settings(environment))) as opened:
        yield opened


@pytest.fixture
def meshtasks(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs the console script."""
    return command(environment, monkeypatch, capsys)


@pytest.fixture
def house() -> Iterator[ReplayedHomeAssistant]:
    """A Home Assistant that says what a real one said."""
    with ReplayedHomeAssistant() as house:
        yield house


@pytest.fixture
def follow(house: ReplayedHomeAssistant, mesh_url: str, tmp_path: Path) -> Follow:
    """Follows the house."""
    return following(house, mesh_url, tmp_path / "states.json")


@pytest.fixture(scope="session")
def gateway_network(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    """The network between the session's gateway and its broker, to cut."""
    with Proxy(rabbitmq.ports.amqp) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def gateway_url(rabbitmq: RabbitMQ) -> str:
    """AMQP URL of the mesh, past the network."""
    rabbitmq.create_vhost("gateway")
    return rabbitmq.amqp_url("gateway")


@pytest.fixture(scope="session")
def gateway(
    gateway_url: str, gateway_network: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The session's gateway; it is told no tokens in its log."""
    directory = tmp_path_factory.mktemp("gateway")
    config = {
        "max_body_bytes": MAX_BODY_BYTES,
        "requests_per_second": 1,
        "burst": 120,
    }
    env = reconfigured(
        {
            "MESH_BROKER_URL": gateway_url,
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
        },
        directory / "config",
        gateway=config,
    )
    declared(env)
    server = Gateway(
        directory, {**env, "MESH_BROKER_URL": gateway_network.url(gateway_url)}
    )
    server.start()
    yield server
    assert server.stop() == 0
    log = server.process.output()
    assert not [caller for caller in SCOPES if token_of(caller) in log]


@pytest.fixture(scope="session")
def console_mesh(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """The mesh that the session's console looks at."""
    rabbitmq.create_vhost("console")
    url = rabbitmq.amqp_url("console")
    with connected(url) as connection:
        declare(connection, shipped_topology())
    return Environment(
        config_dir=ROOT / "config",
        broker_url=SecretStr(url),
        management_url=rabbitmq.management_url,
        state_dir=tmp_path_factory.mktemp("state"),
        archive_url=f"file://{tmp_path_factory.mktemp('archive')}",
        links={"grafana": "http://192.0.2.1:3000"},
    )


@pytest.fixture(scope="session")
def console(
    console_mesh: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with the console."""
    gateway = Gateway(tmp_path_factory.mktemp("console"), variables(console_mesh))
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def console_url(console_mesh: Environment) -> str:
    """AMQP URL of the console's mesh."""
    return console_mesh.amqp_url


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The session's browser."""
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(console: Gateway, browser: Browser) -> Iterator[Browser]:
    """A browser that is logged in as somebody who may operate the mesh."""
    browser.open("about:blank")
    browser.look(width=1280)
    browser.complaints.clear()
    console.log_in(browser, "operator")
    yield browser
    assert browser.complaints == []


@pytest.fixture
def home(console: Gateway, page: Browser) -> Browser:
    """It, when it looks at the house."""
    page.open(console.url)
    page.wait_for("House")
    return page
