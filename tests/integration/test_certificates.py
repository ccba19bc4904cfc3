"""An authority of one's own: all clients believe it, once it is named, and look at the
host's name."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import requests
from urllib3.exceptions import SSLError

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.management import nodes
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.certificates import tls_fault
from meshtasks.config.settings import load_settings, trust
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.diagnosis import unreachable
from meshtasks.flows.inference.triton import Triton
from meshtasks.http import pool_manager, request
from meshtasks.producers.homeassistant.follower import Access, Disconnected, opened
from meshtasks.worker.broker import new_app
from tests.support.amqp import queue_depth
from tests.support.certificates import QUICK_KEY
from tests.support.tls import TLSListener

HELLO = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and cert.pem and key.pem for ``localhost``."""
    there = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=there, check=True, capture_output=True
        )

    of_ca = ("-subj", "/CN=ours", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    may_sign = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *QUICK_KEY, *of_ca, *may_sign)
    openssl(
        "req", *QUICK_KEY, "-subj", "/CN=mesh", "-keyout", "key.pem", "-out", "it.csr"
    )
    extensions = (
        "subjectAltName=DNS:localhost\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    (there / "names").write_text(extensions)
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    to = ("-extfile", "names", "-out", "cert.pem")
    openssl("x509", "-req", "-in", "it.csr", *signed, *to)
    # As openssl makes them by itself.
    lax = ("-subj", "/CN=lax", "-keyout", "lax.key", "-out", "lax.pem", "-days", "2")
    openssl("req", "-x509", *QUICK_KEY, *lax)
    by_lax = ("-CA", "lax.pem", "-CAkey", "lax.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "it.csr", *by_lax, *to[:-1], "of-lax.pem")
    (there / "ca.conf").write_text(
        "[ca]\ndatabase=db\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n"
        "rand_serial=yes\nx509_extensions=of\n[any]\ncommonName=supplied\n"
        f"[of]\n{extensions}"
    )
    (there / "db").touch()
    past = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
    by = ("-config", "ca.conf", "-name", "ca", "-cert", "ca.pem", "-keyfile", "ca.key")
    openssl("ca", "-batch", "-in", "it.csr", *by, *past, "-out", "expired.pem")
    return there


@pytest.fixture(params=["cert.pem"])
def port(authority: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A server on loopback that answers every request over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / request.param, authority / "key.pem")
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = server.accept()
                with suppress(OSError), context.wrap_socket(plain, True) as client:
                    client.recv(65_536)
                    client.sendall(HELLO)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(300)


@pytest.fixture(autouse=True)
def _not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trusting sets is unset after the test."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


def test_it_is_believed_once_it_is_named(
    authority: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://localhost:{port}/"

    def ask() -> int:
        pool = pool_manager(maxsize=1)
        return request(pool, "GET", url, timeout_seconds=10).status

    with pytest.raises(SSLError):
        ask()
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, timeout=300)
    assert "MESH_CA_FILE" in unreachable([url])[url]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_CA_FILE", str(authority / "ca.pem"))
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path / "state"))
    load_settings()

    assert ask() == 204
    assert requests.get(url, timeout=300).status_code == 204
    assert unreachable([url]) == {}


def test_models_management_and_home_assistant_are_asked_with_it(
    authority: Path, port: int, tmp_path: Path
) -> None:
    place = f"localhost:{port}"

    def faults() -> list[str]:
        found = []
        asked: list[Callable[[], object]] = [
            lambda: Triton(f"https://{place}").model("m", ""),
            lambda: nodes(f"amqps://u:p@{place}/v", f"https://{place}"),
            lambda: opened(Access(f"wss://{place}/", "t")).__enter__(),
        ]
        for ask in asked:
            with pytest.raises((Transient, ConfigError, Disconnected)) as it:
                ask()
            found.append(str(it.value))
        return found

    assert ["MESH_CA_FILE" in fault for fault in faults()] == [False, True, True]

    trust(authority / "ca.pem", tmp_path)

    # the server answers nothing that they understand, but after the handshake
    assert not any("CERTIFICATE" in fault for fault in faults())


def test_a_certificate_of_another_host_is_refused(
    authority: Path, port: int, tmp_path: Path
) -> None:
    trust(authority / "ca.pem", tmp_path)
    for host, fault in (("127.0.0.1", "is for other hosts"), ("localhost", "")):
        url = f"amqps://mesh:mesh@{host}:{port}/mesh"
        # the server speaks no AMQP, but that shows only after the handshake
        with pytest.raises(Transient) as it, connected(url):
            pass
        assert fault in str(it.value)
        assert ("its certificate" in str(it.value)) == bool(fault)


@pytest.mark.parametrize("port", ["expired.pem"], indirect=True)
def test_an_expired_certificate_is_named_as_one(
    authority: Path, port: int, tmp_path: Path
) -> None:
    trust(authority / "ca.pem", tmp_path)
    url = f"amqps://mesh:mesh@localhost:{port}/mesh"
    with pytest.raises(Transient, match="has expired") as it, connected(url):
        pass
    assert "meshtasks certificates --renew" in str(it.value)


@pytest.mark.parametrize("port", ["of-lax.pem"], indirect=True)
def test_what_python_3_13_does_not_believe_is_named(authority: Path, port: int) -> None:
    context = ssl.create_default_context(cafile=authority / "lax.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("localhost", port)) as plain,
        pytest.raises(ssl.SSLError) as refused,
    ):
        context.wrap_socket(plain, server_hostname="localhost")

    assert "keyUsage=critical,keyCertSign" in tls_fault(refused.value)


def test_publishers_and_workers_go_on_at_another_node_by_tls(
    authority: Path, mesh_url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    trust(authority / "ca.pem", tmp_path)
    reading = Outgoing("sensors", "sensors.temperature.attic", b"21.5")
    port, key = rabbitmq.ports.amqp, authority / "key.pem"
    with ExitStack() as stack:
        expired, first, second = (
            stack.enter_context(TLSListener(port, authority / name, key))
            for name in ("expired.pem", "cert.pem", "cert.pem")
        )
        urls = ";".join(each.url(mesh_url) for each in (expired, first, second))
        publisher = stack.enter_context(closing(Publisher(urls)))
        app = stack.enter_context(new_app("test", urls, set_as_current=False))
        workers = stack.enter_context(app.connection_for_read())
        for node in (first, second):
            publisher.publish([reading])
            workers.ensure_connection(max_retries=0)
            assert workers.port == node.port
            node.close()
            workers.close()
    assert queue_depth(mesh_url, "sensors.temperature") == 2


def test_a_port_without_tls_is_named_as_one(rabbitmq: RabbitMQ) -> None:
    url = f"amqps://mesh:mesh@localhost:{rabbitmq.ports.amqp}/mesh"
    with pytest.raises(Transient, match="no TLS"), connected(url):
        pass


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        trust(file, tmp_path)
    assert refused.value.key == "MESH_CA_FILE"
