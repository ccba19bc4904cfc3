"""Real servers for the tests: slow ones once a session, a fresh space per test.

===================  =======================================================
``amqp_url``         a virtual host of the session's RabbitMQ, the test's own
``mesh_url``         one with the shipped topology, which other tests had before;
                     ``new_mesh_url``, one that is the test's own, too
``victoria``         a VictoriaMetrics of the test's own, to stop and kill
``mesh_env``         ``MESH_*`` variables that point at those two, a state
                     directory and a ``file://`` archive of the test's own;
                     ``new_mesh_env``, at an empty virtual host
``new_rabbitmq``     makes nodes of the test's own, to stop, kill and restart
``rabbitmq``         the session's node, which speaks MQTT, too
``every_amqp_url``   like ``amqp_url``, and once more on RabbitMQ 4
``postgres``         the session's PostgreSQL
``state_location``   an empty state, in a SQLite file and once more in PostgreSQL
``swift``            the session's object store; ``new_swift``, one of the test's own
``s3``               that store as a client sees it, and once more Garage
``influx``           a bucket in the InfluxDB 1.6 engine, and once more in 2
``triton``           the session's Triton, with all models; leave them loaded
``new_triton``       a Triton of the test's own, to stop and kill; both are played from
                     a recording where the real one does not run
``receiver``         an HTTP service that records and answers as told
``ntfy``             the session's push server; a test takes a topic of its own
``chromium``         a browser; ``docker_compose``, its program
``every_ntfy``       the one that is played from a recording, and the real one
===================  =======================================================

"Once more" needs a Docker engine; without one there is no such variant. What this
release of the system does not have is skipped, and says so.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import none
from sqlalchemy import make_url

from meshtasks import text
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.demo.rabbitmq import MANAGEMENT, MQTT, PARTITIONS, PROMETHEUS, RabbitMQ
from meshtasks.demo.servers import Triton, VictoriaMetrics, unavailable_reason
from meshtasks.state.database import Database, StateLocation
from tests.support import containers
from tests.support.chromium import absent_reason
from tests.support.forking import Forking
from tests.support.influx import Influx, InfluxTarget
from tests.support.ntfy import Ntfy, PlayedNtfy, RealNtfy
from tests.support.played_triton import PlayedTriton
from tests.support.postgres import Postgres, postgres_unavailable
from tests.support.receiver import Receiver
from tests.support.s3 import S3Target
from tests.support.swift import Swift, swift_unavailable
from tests.support.topologies import shipped_topology
from tests.support.triton import REPOSITORIES, Server
from tests.support.unpacked import COMPOSE, NTFY
from tests.support.vhosts import MeshVhosts

# The same examples every time: a change is not to be blamed for what a search happens
# to find. `make test ARGS="--hypothesis-profile=searching"` looks further.
# How long an example takes, or its making, says how busy the machine is.
_UNTIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("repeatable", derandomize=True, **_UNTIMED)
settings.register_profile("searching", max_examples=1_000, **_UNTIMED)
settings.load_profile("repeatable")


# A test run that was put in the background ignores these signals, and so would
# every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Nor is a person's own mesh tested, their taste in colours, or the proxy that leads out
# of their network.
_FOREIGN = ("MESH_", "CELERY_", "FLOWER_")
_TASTES = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"}
for _name in list(os.environ):
    _is_foreign = _name.startswith(_FOREIGN) and not _name.startswith("MESH_TEST_")
    if _is_foreign or _name in _TASTES:
        del os.environ[_name]
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1,::1"

ROOT = Path(__file__).parents[1]

# Tests make programs in their directories, and run them.
if os.statvfs(tempfile.gettempdir()).f_flag & os.ST_NOEXEC:
    tempfile.tempdir = os.environ["TMPDIR"] = str(ROOT / ".mesh" / "tmp")
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)

_CONTAINER = ["container"] if containers.docker_answers() else []

_numbers = itertools.count(1)

#: Files for one process, by the server that is slow to start, and once a session.
_TOGETHER: dict[str, Callable[[str], Any]] = {
    "console": re.compile("test_console").match,
    "object store": re.compile(
        "test_(analytics|archive|archive_cli|archive_repair|demo_peers|objects"
        "|objects_s3|query)$"
    ).match,
}

#: Why there is no server or program on this machine, by the fixture that stands for it.
_ABSENT: dict[str, Callable[[], str | None]] = {
    "chromium": absent_reason,
    "docker_compose": COMPOSE.absent,
    "real_ntfy": NTFY.absent,
    "real_triton": unavailable_reason,
    "new_real_triton": unavailable_reason,
    "swift": swift_unavailable,
    "new_swift": swift_unavailable,
    "postgres": postgres_unavailable,
    "postgresql": postgres_unavailable,
}


def pytest_runtest_setup(item: pytest.Function) -> None:
    """Skip what this machine cannot have; here, so that each is one line of the
    summary."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {value for value in parameters if isinstance(value, str)}
    for name in {*item.fixturenames, *named} & _ABSENT.keys():
        if reason := _ABSENT[name]():
            pytest.skip(f"{name.removeprefix('new_')}: {reason}")


def _group_of(nodeid: str) -> str:
    """What a test runs in one process with: its file, or several that need the same
    server."""
    file = nodeid.partition("::")[0]
    name = Path(file).stem
    return next((key for key, some in _TOGETHER.items() if some(name)), file)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The number of processes."""
    parser.addoption(
        "--processes", type=int, default=0, help="run the tests in so many processes"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Run the tests in several processes where that is asked for."""
    if count := config.getoption("processes"):
        config.pluginmanager.register(Forking(count, _group_of))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have Hypothesis make its generator of random numbers before processes fork: when
    it does, it asks the garbage collector who refers to that, and what was collected is
    kept from the garbage collector then."""
    if session.config.getoption("processes"):
        settings(max_examples=1, database=None)(given(none())(lambda _: None))()


@pytest.fixture(autouse=True)
def _no_secret_is_known() -> Iterator[None]:
    """What one test calls a secret is a word to the next."""
    yield
    text.forget()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """The session's node; a test takes a virtual host of it (``amqp_url``)."""
    directory = tmp_path_factory.mktemp("rabbitmq")
    node = RabbitMQ(directory, plugins=(MANAGEMENT, MQTT, PARTITIONS, PROMETHEUS))
    node.start()
    yield node
    node.kill()  # an orderly stop takes six seconds, to save what nobody wants


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server; a test takes a database of it (``state_location``)."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """A database with the tables, to be copied: quicker than to make them."""
    name = postgres.new_database()
    Database(
        "template", StateLocation(make_url(postgres.url(name)), Path()), ""
    ).probe()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def state_location(request: pytest.FixtureRequest, tmp_path: Path) -> StateLocation:
    """An empty state, of each kind."""
    directory = tmp_path / "state"
    if request.param == "sqlite":
        return StateLocation.in_directory(directory)
    server: Postgres = request.getfixturevalue("postgres")
    name = server.new_database(request.getfixturevalue("postgres_template"))
    return StateLocation(make_url(server.url(name)), directory)


@pytest.fixture
def new_rabbitmq(tmp_path: Path) -> Iterator[Callable[..., RabbitMQ]]:
    """Makes a started node of the test's own, with the plugins it is given."""
    with ExitStack() as nodes:

        def make(*plugins: str) -> RabbitMQ:
            directory = tmp_path / f"rabbitmq-{next(_numbers)}"
            node = RabbitMQ(directory, plugins=plugins)
            nodes.callback(node.kill)
            node.start()
            return node

        yield make


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """Name of a virtual host of the test's own."""
    name = f"test-{next(_numbers)}"
    rabbitmq.create_vhost(name)
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ, vhost: str) -> str:
    """AMQP URL of the test's virtual host."""
    return rabbitmq.amqp_url(vhost)


@pytest.fixture(scope="session")
def mesh_vhosts(rabbitmq: RabbitMQ) -> MeshVhosts:
    """The session's virtual hosts with the topology of the mesh."""
    return MeshVhosts(rabbitmq)


@pytest.fixture
def mesh_vhost(mesh_vhosts: MeshVhosts) -> Iterator[str]:
    """Name of a virtual host with the topology of the mesh."""
    name = mesh_vhosts.take()
    yield name
    mesh_vhosts.give_back(name)


@pytest.fixture
def mesh_url(rabbitmq: RabbitMQ, mesh_vhost: str) -> str:
    """AMQP URL of that virtual host."""
    return rabbitmq.amqp_url(mesh_vhost)


@pytest.fixture
def new_mesh_url(amqp_url: str) -> str:
    """The same; no other test had it, so nothing of it was counted yet."""
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    return amqp_url


@pytest.fixture(scope="session")
def rabbitmq_container() -> Iterator[containers.NewUrl]:
    """The session's RabbitMQ in a container; a test takes a virtual host of it."""
    with containers.rabbitmq_container() as new_url:
        yield new_url


@pytest.fixture(params=["embedded", *_CONTAINER])
def every_amqp_url(request: pytest.FixtureRequest) -> str:
    """AMQP URL of an empty broker, of every version there is to test with."""
    if request.param == "embedded":
        url: str = request.getfixturevalue("amqp_url")
        return url
    new_url: containers.NewUrl = request.getfixturevalue("rabbitmq_container")
    return new_url(f"test-{next(_numbers)}")


@pytest.fixture
def victoria(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """A VictoriaMetrics of the test's own; it starts in a twentieth of a second."""
    server = VictoriaMetrics(tmp_path / "victoria")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mesh_env(
    mesh_url: str, victoria: VictoriaMetrics, tmp_path: Path
) -> dict[str, str]:
    """``MESH_*`` variables for a mesh of the test's own, with the shipped topology."""
    return _mesh_env(mesh_url, victoria, tmp_path)


@pytest.fixture
def new_mesh_env(
    amqp_url: str, victoria: VictoriaMetrics, tmp_path: Path
) -> dict[str, str]:
    """The same for a test that declares another topology."""
    return _mesh_env(amqp_url, victoria, tmp_path)


def _mesh_env(url: str, victoria: VictoriaMetrics, tmp_path: Path) -> dict[str, str]:
    return {
        "MESH_BROKER_URL": url,
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "MESH_STATE_DIR": str(tmp_path / "state"),
        "MESH_INFLUX_URL": victoria.url,
        "MESH_INFLUX_TOKEN": "unchecked",
        "MESH_ARCHIVE_URL": f"file://{tmp_path / 'archive'}",
    }


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """The session's object store; a test makes buckets of its own in it."""
    store = Swift(tmp_path_factory.mktemp("swift"))
    store.start()
    yield store
    store.kill()


@pytest.fixture
def new_swift(tmp_path: Path) -> Iterator[Swift]:
    """An object store of the test's own, to stop and kill."""
    with Swift(tmp_path / "swift") as store:
        yield store


@pytest.fixture(scope="session", params=["swift", *_CONTAINER])
def s3(request: pytest.FixtureRequest) -> Iterator[S3Target]:
    """Every S3 service there is to test with; a test makes buckets of its own."""
    if request.param == "container":
        with containers.garage_container() as target:
            yield target
    else:
        yield request.getfixturevalue("swift").target


@pytest.fixture(scope="session")
def influx_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    """The session's InfluxDB 1.6; a test takes a bucket of it (``influx``)."""
    with Influx(tmp_path_factory.mktemp("influx")) as engine:
        yield engine


@pytest.fixture(params=["engine-1.6", *_CONTAINER])
def influx(request: pytest.FixtureRequest) -> Iterator[InfluxTarget]:
    """An empty bucket in every InfluxDB there is to test with."""
    if request.param == "container":
        with containers.influxdb_container() as target:
            yield target
    else:
        engine = request.getfixturevalue("influx_engine")
        yield engine.create_bucket(f"test-{next(_numbers)}")


@pytest.fixture(scope="session")
def ntfy() -> Iterator[Ntfy]:
    """The session's push server; ``every_ntfy`` holds it against the real one."""
    with PlayedNtfy() as server:
        yield server


@pytest.fixture(scope="session")
def real_ntfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ntfy]:
    """The real push server, where this release has it."""
    with RealNtfy(tmp_path_factory.mktemp("ntfy")) as server:
        yield server


@pytest.fixture
def chromium() -> None:
    """A browser for the pages (``tests.support.chromium``)."""


@pytest.fixture
def docker_compose() -> Path:
    """Docker Compose's program, which reads files without an engine."""
    return COMPOSE.program


@pytest.fixture(params=["ntfy", "real_ntfy"])
def every_ntfy(request: pytest.FixtureRequest) -> Ntfy:
    """Every push server there is to test with."""
    server: Ntfy = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def topic() -> str:
    """A topic of the push server, the test's own."""
    return f"test-{next(_numbers)}"


@contextmanager
def _serving(server: Server) -> Iterator[Server]:
    server.start()
    yield server
    server.kill()  # an orderly stop takes three seconds


@pytest.fixture(scope="session")
def played_triton() -> Iterator[Server]:
    """The session's server of models that is played."""
    with _serving(PlayedTriton(REPOSITORIES)) as server:
        yield server


@pytest.fixture(scope="session")
def real_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The session's real server of models, where it runs.

    A space in its directory is as in a clone in "My Documents".
    """
    with _serving(Triton(tmp_path_factory.mktemp("my triton"), REPOSITORIES)) as server:
        yield server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory of models of the test's own."""
    repository = tmp_path / "models"
    repository.mkdir()
    return repository


@pytest.fixture
def new_played_triton(models: Path) -> Iterator[Server]:
    """A server of models of the test's own that is played."""
    with _serving(PlayedTriton([*REPOSITORIES, models])) as server:
        yield server


@pytest.fixture
def new_real_triton(models: Path, tmp_path: Path) -> Iterator[Server]:
    """A real server of models of the test's own; it starts in a quarter of a second."""
    with _serving(Triton(tmp_path / "my triton", [*REPOSITORIES, models])) as server:
        yield server


@pytest.fixture(scope="session")
def triton(request: pytest.FixtureRequest) -> Server:
    """The session's server of models: the real one where it runs."""
    name = "played_triton" if unavailable_reason() else "real_triton"
    server: Server = request.getfixturevalue(name)
    return server


@pytest.fixture
def new_triton(request: pytest.FixtureRequest) -> Server:
    """A server of models of the test's own: a real one where it runs."""
    name = "new_played_triton" if unavailable_reason() else "new_real_triton"
    server: Server = request.getfixturevalue(name)
    return server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP service that records requests and answers as the test tells it."""
    with Receiver() as service:
        yield service
