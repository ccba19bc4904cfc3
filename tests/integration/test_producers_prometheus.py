"""Scraping real exporters, services that fail, and pods of Kubernetes."""

from __future__ import annotations

import gzip
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.openmetrics.exposition import generate_latest

import meshtasks.producers.prometheus.__main__ as command
from meshtasks.demo import loopback
from meshtasks.demo.process import Process
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError
from meshtasks.producers.prometheus.config import (
    KubernetesConfig,
    PrometheusConfig,
    TargetConfig,
)
from meshtasks.producers.prometheus.pods import PodDiscovery
from meshtasks.producers.prometheus.scraping import PrometheusCollector, Target
from tests.support.collectors import Record, metrics_until, running, write_config
from tests.support.httpserver import Handler, HTTPServer
from tests.support.kubernetes import pod, pod_list, refusal, write_kubeconfig
from tests.support.receiver import Answer, Receiver

QUEUE = "metrics.application"
PAGE = b"# TYPE orders_total counter\norders_total 5\nqueue_length 2\n"


@pytest.fixture(scope="module")
def node_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the page of Debian's prometheus-node-exporter."""
    port = loopback.free_port()
    directory = tmp_path_factory.mktemp("node-exporter")
    server = Process(
        "prometheus-node-exporter",
        ["prometheus-node-exporter", f"--web.listen-address={loopback.HOST}:{port}"],
        log_path=directory / "log",
    )

    def answers() -> bool:
        try:
            loopback.request("GET", port, "/metrics")
        except OSError:
            return False
        return server.running

    server.start()
    server.wait_ready(answers, 30.0)
    yield f"http://{loopback.HOST}:{port}/metrics"
    server.kill()


@pytest.fixture
def rabbitmq_page(rabbitmq: RabbitMQ) -> str:
    """URL of the page of RabbitMQ's own plugin."""
    return f"http://{loopback.HOST}:{rabbitmq.ports.prometheus}/metrics"


Scrape = Callable[[], dict[str, list[dict[str, Any]]]]


@pytest.fixture
def scraping() -> Iterator[Callable[..., Scrape]]:
    """Makes what scrapes a URL: fields by name of metric."""
    targets = []

    def make(url: str, *, auth: dict[str, str] | None = None, **common: Any) -> Scrape:
        known = TargetConfig(service="shop", url=url)
        config = PrometheusConfig(targets=(known,), **common)
        target = Target(known, config, auth or {})
        targets.append(target)

        def scrape() -> dict[str, list[dict[str, Any]]]:
            found: dict[str, list[dict[str, Any]]] = {}
            for measured in target.scrape():
                record = measured.record
                found.setdefault(record["name"], []).append(record["fields"])
            return found

        return scrape

    yield make
    for target in targets:
        target.close()


class TestRealExporters:
    def test_both_are_published_with_rates(
        self, mesh_url: str, tmp_path: Path, node_exporter: str, rabbitmq_page: str
    ) -> None:
        config = {
            "interval_seconds": 2.0,
            "timeout_seconds": 2.0,
            "targets": [
                {"service": "node", "url": node_exporter},
                {"service": "rabbitmq", "url": rabbitmq_page},
            ],
        }
        env = {
            "MESH_BROKER_URL": mesh_url,
            **write_config(tmp_path, "prometheus", config),
        }
        wanted = {"node_cpu_seconds", "rabbitmq_channels_opened"}

        def rated(metrics: list[Record]) -> set[str]:
            return {each["name"] for each in metrics if "per_second" in each["fields"]}

        with running("prometheus", env) as producer:
            metrics = metrics_until(
                mesh_url, QUEUE, lambda taken: wanted <= rated(taken), "rates"
            )
            producer.send_signal(signal.SIGTERM)
            _, errors = producer.communicate(timeout=300)

        assert producer.returncode == 0, errors
        services = {each["name"]: each["tags"]["service"] for each in metrics}
        assert services["node_load1"] == services["node_cpu_seconds"] == "node"
        assert services["rabbitmq_connections"] == "rabbitmq"
        names = [each["name"] for each in metrics]
        assert len(set(names)) > 200

    @pytest.mark.parametrize("exporter", ["node_exporter", "rabbitmq_page"])
    def test_nothing_of_a_page_is_left_out(
        self,
        request: pytest.FixtureRequest,
        scraping: Callable[..., Scrape],
        exporter: str,
    ) -> None:
        scrape = scraping(request.getfixturevalue(exporter))
        scrape()

        (how,) = scrape()["scrape"]

        assert how["up"] is True
        assert how["series"] > 100
        assert how["duplicates"] == how["refused"] == 0

    def test_a_service_of_the_official_client_speaks_openmetrics(
        self, receiver: Receiver, scraping: Callable[..., Scrape]
    ) -> None:
        registry = CollectorRegistry()
        orders = Counter("orders", "Orders.", registry=registry)
        seconds = Histogram("answer_seconds", "Time.", registry=registry)

        def show() -> None:
            kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
            page = generate_latest(registry)  # type: ignore[no-untyped-call]  # has no types
            receiver.always = Answer(body=page, headers={"Content-Type": kind})

        scrape = scraping(f"{receiver.url}/metrics", interval_seconds=3600)
        show()
        scrape()
        orders.inc(7)
        seconds.observe(0.2)
        show()
        found = scrape()

        assert found["orders"][0]["total"] == 7.0
        assert found["orders"][0]["per_second"] > 0
        assert 0.1 <= found["answer_seconds"][0]["p50"] <= 0.25
        accepted = receiver.requests[0].headers["accept"]
        assert accepted.startswith("text/plain;version=0.0.4")


class TestServicesThatFail:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (Answer(404), "answered 404: is the path right?"),
            (Answer(401), "answered 401: it wants a secret"),
            (Answer(503), "answered 503: Service Unavailable"),
            (Answer(302, headers={"Location": "/login"}), "points to /login"),
            (Answer(body=PAGE, delay_seconds=30.0), "not answer within 0.3 s"),
            (Answer(body=b"<html>"), "not Prometheus's text format"),
            (Answer(body=b"not gzip", headers={"Content-Encoding": "gzip"}), "read"),
            (Answer(body=b"a 1\n" * 100_000), "shows 100,000 series, more than"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_target_that_cannot_be_read_is_not_up_and_the_reason_is_logged(
        self,
        receiver: Receiver,
        scraping: Callable[..., Scrape],
        caplog: pytest.LogCaptureFixture,
        answer: Answer,
        reason: str,
    ) -> None:
        receiver.always = answer
        # Only the one that keeps us waiting is to be given up.
        timeout_seconds = 0.3 if answer.delay_seconds else 30.0
        scrape = scraping(f"{receiver.url}/metrics", timeout_seconds=timeout_seconds)

        found = scrape()

        assert found.keys() == {"scrape"}
        assert found["scrape"][0]["up"] is False
        assert reason in caplog.text

    def test_it_is_logged_once_that_a_target_is_down_and_once_that_it_is_back(
        self,
        receiver: Receiver,
        scraping: Callable[..., Scrape],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        receiver.always = Answer(body=PAGE)
        scrape = scraping(f"{receiver.url}/metrics")
        scrape()
        receiver.stop()
        with caplog.at_level(logging.INFO):
            hows = [scrape()["scrape"][0] for _ in range(3)]
            receiver.start()
            back = scrape()

        assert [how["up"] for how in hows] == [False] * 3
        assert [how["vanished_series"] for how in hows] == [2, 0, 0]
        assert caplog.text.count("cannot be reached: ") == 1
        assert caplog.text.count("has recovered") == 1
        assert back["orders"][0]["total"] == 5

    def test_a_page_that_trickles_in_for_ever_is_given_up(
        self, scraping: Callable[..., Scrape], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Trickle(Handler):
            def do_GET(self) -> None:  # noqa: N802 - as http.server has it
                self.send_response(200)
                self.send_header("Content-Length", "10000000000")
                self.end_headers()
                with suppress(ConnectionError):
                    while True:
                        self.wfile.write(b"#")

        with HTTPServer(Trickle) as server:
            found = scraping(server.url, timeout_seconds=0.3)()

        assert found["scrape"][0]["up"] is False
        assert "did not answer within 0.3 s" in caplog.text

    def test_a_series_that_vanishes_is_counted_and_begins_anew(
        self, receiver: Receiver, scraping: Callable[..., Scrape]
    ) -> None:
        scrape = scraping(f"{receiver.url}/metrics")
        for page in (PAGE, b"queue_length 2\n", PAGE):
            receiver.script(Answer(body=page))
        first, second, third = scrape(), scrape(), scrape()

        assert first["scrape"][0]["vanished_series"] == 0
        assert second["scrape"][0]["vanished_series"] == 1
        assert third["orders"] == [{"total": 5}]

    def test_a_packed_page_is_unpacked(
        self, receiver: Receiver, scraping: Callable[..., Scrape]
    ) -> None:
        headers = {"Content-Encoding": "gzip"}
        receiver.always = Answer(body=gzip.compress(PAGE, mtime=0), headers=headers)

        assert scraping(f"{receiver.url}/metrics")()["orders"] == [{"total": 5}]


class TestSecrets:
    CONFIG: ClassVar[dict[str, Any]] = {
        "interval_seconds": 0.5,
        "timeout_seconds": 0.5,
        "targets": [
            {
                "service": "shop",
                "url": "http://127.0.0.1:9/metrics",
                "auth": {"header": "Authorization", "secret": "shop"},
            }
        ],
    }

    def test_a_secret_is_sent_in_its_header(
        self, receiver: Receiver, tmp_path: Path
    ) -> None:
        (target,) = self.CONFIG["targets"]
        url = f"{receiver.url}/metrics"
        config = {**self.CONFIG, "targets": [{**target, "url": url}]}
        env = write_config(tmp_path, "prometheus", config)
        env["MESH_SECRETS__SHOP"] = "Bearer abc"
        with running("prometheus", env, "--dry-run") as producer:
            _, errors = producer.communicate(timeout=300)

        assert producer.returncode == 0, errors
        assert receiver.requests[0].headers["authorization"] == "Bearer abc"
        assert "abc" not in errors

    def test_a_secret_that_is_not_there_stops_the_start(self, tmp_path: Path) -> None:
        env = write_config(tmp_path, "prometheus", self.CONFIG)
        with running("prometheus", env) as producer:
            _, errors = producer.communicate(timeout=300)

        assert producer.returncode == os.EX_CONFIG
        assert "targets.0.auth.secret: MESH_SECRETS__SHOP" in errors


class TestKubernetes:
    @pytest.fixture
    def discovery(self, receiver: Receiver, tmp_path: Path) -> PodDiscovery:
        """Asks the receiver as if it were the API."""
        kubeconfig = write_kubeconfig(tmp_path, receiver.url)
        return PodDiscovery(KubernetesConfig(kubeconfig=kubeconfig), tmp_path / "x")

    def test_pods_that_ask_for_it_are_targets(
        self, receiver: Receiver, discovery: PodDiscovery
    ) -> None:
        receiver.always = pod_list(
            pod("web-1", scrape="true", labels={"app": "web"}),
            pod("db.0", scrape="true", container_port=None, path="/m", port="9187"),
            pod("six", scrape="true", ip="fd00::7", scheme="https"),
            pod("quiet"),
            pod("refuses", scrape="false"),
            pod("starting", scrape="true", ip=None),
            pod("ending", scrape="true", deleted_at="2026-11-23T12:00:00Z"),
        )

        found = {each.service: each for each in discovery.targets()}

        assert {name: each.url for name, each in found.items()} == {
            "web": "http://10.1.2.3:8080/metrics",
            "db_0": "http://10.1.2.3:9187/m",
            "six": "https://[fd00::7]:8080/metrics",
        }
        assert found["web"].instance == "10.1.2.3:8080"
        assert found["web"].tags == {"namespace": "shop", "pod": "web-1"}
        (request,) = receiver.requests
        assert request.path.startswith("/api/v1/pods?")
        assert request.headers["authorization"] == "Bearer secret-token"

    def test_a_long_list_is_read_page_by_page(
        self, receiver: Receiver, discovery: PodDiscovery
    ) -> None:
        receiver.script(
            pod_list(pod("a", scrape="true"), following="next"),
            pod_list(pod("b", scrape="true")),
        )

        assert [each.service for each in discovery.targets()] == ["a", "b"]
        assert "continue=next" in receiver.requests[1].path

    def test_a_pod_with_invalid_annotations_is_logged_once_and_the_others_scraped(
        self,
        receiver: Receiver,
        discovery: PodDiscovery,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        receiver.always = pod_list(
            pod("odd", scrape="true", scheme="gopher"), pod("web", scrape="true")
        )
        for _ in range(2):
            assert [each.service for each in discovery.targets()] == ["web"]

        assert caplog.text.count("pod shop/odd cannot be scraped") == 1

    def test_paths_with_questions_named_ports_and_several_containers(
        self,
        receiver: Receiver,
        discovery: PodDiscovery,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Pods as in ghostunnel#236, prometheus#3530 and prometheus#3756."""
        two = pod("two", scrape="true")
        second = {"name": "side", "image": "x", "ports": [{"containerPort": 9}]}
        two["spec"]["containers"].append(second)
        receiver.always = pod_list(
            pod("vault", scrape="true", path="/v1/sys/metrics?format=prometheus"),
            pod("portless", scrape="true", container_port=None),
            pod("named", scrape="true", port="http-metrics"),
            pod("six", scrape="true", ip="fd00::7", port="9100"),
            two,
        )

        found = {each.service: each.url for each in discovery.targets()}

        assert found == {
            "vault": "http://10.1.2.3:8080/v1/sys/metrics?format=prometheus",
            "six": "http://[fd00::7]:9100/metrics",
            "two": "http://10.1.2.3:8080/metrics",
        }
        assert "pod shop/portless cannot be scraped" in caplog.text
        assert "pod shop/named cannot be scraped" in caplog.text

    def test_a_pod_that_lacks_a_part_hides_no_other(
        self, receiver: Receiver, discovery: PodDiscovery
    ) -> None:
        parts = ("metadata", "spec", "status")
        odd = [pod(f"odd-{part}", scrape="true") | {part: None} for part in parts]
        receiver.always = pod_list(*odd, pod("web", scrape="true"))

        assert "web" in [each.service for each in discovery.targets()]

    def test_an_answer_that_is_no_list_leaves_the_targets_as_they_were(
        self, receiver: Receiver, discovery: PodDiscovery
    ) -> None:
        web = pod("web", scrape="true", ip="127.0.0.1", port=str(receiver.port))
        receiver.by_path["/metrics"] = Answer(body=PAGE)
        json_type = {"Content-Type": "application/json"}
        bodies = [b"{}", b"[]", b"null", b'{"items": 5}', b"<html>", b'{"metadata": 1}']
        receiver.script(pod_list(web), *(Answer(200, b, json_type) for b in bodies))
        config = PrometheusConfig(kubernetes=KubernetesConfig())
        collector = PrometheusCollector(config, (), (discovery.targets, 0.0))

        rounds = [len(list(collector.collect())) for _ in range(1 + len(bodies))]

        assert rounds == [3] * len(rounds)

    def test_a_namespace_that_may_not_be_looked_at_hides_no_other(
        self, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        wanted = KubernetesConfig(
            kubeconfig=write_kubeconfig(tmp_path, receiver.url),
            namespaces=("shop", "secret", "infra"),
        )
        discovery = PodDiscovery(wanted, tmp_path / "x")
        web, dns = pod("web", scrape="true"), pod("dns", scrape="true")
        receiver.script(
            pod_list(web),
            refusal(403, "Forbidden"),
            pod_list(dns),
            refusal(500, "Internal"),
            refusal(403, "Forbidden"),
            pod_list(),
        )

        found = [[each.service for each in discovery.targets()] for _ in range(2)]

        assert found == [["web", "dns"], ["web"]]
        assert caplog.text.count("pods of secret: the Kubernetes API answered 403") == 1

    def test_targets_come_and_go_and_stay_while_the_api_is_away(
        self,
        receiver: Receiver,
        discovery: PodDiscovery,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        page = f"127.0.0.1:{receiver.port}"
        web = pod("web", scrape="true", ip="127.0.0.1", port=str(receiver.port))
        receiver.by_path["/metrics"] = Answer(body=PAGE)
        receiver.script(pod_list(web), refusal(403, "Forbidden"), pod_list())
        config = PrometheusConfig(kubernetes=KubernetesConfig())
        collector = PrometheusCollector(config, (), (discovery.targets, 0.0))

        rounds = [
            [each.record["tags"] for each in collector.collect()] for _ in range(3)
        ]

        expected = {"service": "web", "instance": page}
        expected |= {"namespace": "shop", "pod": "web"}
        assert rounds == [[expected] * 3, [expected] * 3, []]
        assert "answered 403: the service account may not list pods" in caplog.text

    def test_without_a_cluster_the_start_is_refused(self, tmp_path: Path) -> None:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text("apiVersion: v1\nkind: Config\n")
        config = {"kubernetes": {"kubeconfig": str(kubeconfig)}}
        env = write_config(tmp_path, "prometheus", config)
        with running("prometheus", env) as producer:
            _, errors = producer.communicate(timeout=300)

        assert producer.returncode == os.EX_CONFIG
        assert "kubernetes: a pod's own credentials or" in errors

    def test_without_its_client_the_start_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        env = write_config(tmp_path, "prometheus", {"kubernetes": {}})
        monkeypatch.setenv("MESH_CONFIG_DIR", env["MESH_CONFIG_DIR"])
        monkeypatch.delitem(sys.modules, "meshtasks.producers.prometheus.pods")
        monkeypatch.setitem(sys.modules, "kubernetes", None)

        with pytest.raises(ConfigError, match=r"meshtasks\[kubernetes\]"):
            command.prometheus(None, dry_run=True)  # type: ignore[arg-type]
