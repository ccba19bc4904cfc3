"""No page or answer of a service ends a collector; what of it can be stored, is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtasks.producers.buffer import encode
from meshtasks.producers.collecting import Measured
from meshtasks.producers.http import Client, Page
from meshtasks.producers.prometheus.config import PrometheusConfig, TargetConfig
from meshtasks.producers.prometheus.scraping import PrometheusCollector, Target
from meshtasks.producers.triton import TritonCollector, TritonConfig
from meshtasks.records.points import fields_text, metric_start, tags_of

TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
GOOD = TargetConfig(service="good", url="http://good:1/metrics")
ODD = TargetConfig(service="odd", url="http://odd:1/metrics")

#: Of pages, so that many of those that are made of them are nearly right.
TOKENS = (
    *'ab{}="\\,# \n\r01.-',
    *("# TYPE n ", "histogram", "summary", "_total", "_bucket", "n", "# EOF\n"),
    *('{le="', '"} ', "{count:", "[0:2]", "NaN", "1e999", " 1\n"),
)

Serve = Callable[[str, Page], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """What the services behind URLs that contain a word answer."""
    pages = {"good": Page(TEXT, b"queue 5\n")}

    def get(_client: Client, url: str) -> Page:
        return next(page for word, page in pages.items() if word in url)

    monkeypatch.setattr(Client, "get", get)
    return pages.__setitem__


class Clock:
    """Ten seconds from round to round."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def assert_storable(found: list[Measured]) -> None:
    for measured in found:
        record: Any = measured.record
        assert metric_start(record["name"], tags_of(record))
        if record["fields"]:
            assert fields_text(record["fields"])
        encode(record)


def scraped(found: list[Measured]) -> dict[str, dict[str, Any]]:
    """The fields of ``scrape`` by service."""
    records = [each.record for each in found if each.record["name"] == "scrape"]
    return {each["tags"]["service"]: each["fields"] for each in records}


def round_of_targets() -> list[Measured]:
    config = PrometheusConfig(targets=(ODD, GOOD))
    targets = [Target(each, config, {}) for each in config.targets]
    return list(PrometheusCollector(config, targets).collect())


class TestTargets:
    @pytest.mark.parametrize("labels", ["", '{a="b"}'])
    def test_a_native_histogram_costs_neither_its_page_nor_the_other_targets(
        self, serve: Serve, labels: str
    ) -> None:
        """As client_python writes it since its PR #1040."""
        page = (
            "# TYPE n histogram\n"
            f"n{labels} {{count:24,sum:100,schema:0,zero_threshold:0.001,zero_count:4,"
            "positive_spans:[0:2,1:2],negative_spans:[],positive_deltas:[2,1,-3,3]}\n"
            "# TYPE q gauge\nq 7\n# EOF\n"
        )
        serve("odd", Page(OPENMETRICS, page.encode()))

        found = round_of_targets()

        assert [each.record["name"] for each in found] == [
            "q",
            "scrape",
            "queue",
            "scrape",
        ]
        assert scraped(found)["odd"]["refused"] == 1
        assert all(each["up"] for each in scraped(found).values())

    @pytest.mark.parametrize(
        "error", [AttributeError("x"), KeyError(7), RecursionError(), OSError(5)]
    )
    def test_a_target_is_down_whatever_its_page_makes_a_parser_raise(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        get = Client.get

        def raising(client: Client, url: str) -> Page:
            if "odd" in url:
                raise error
            return get(client, url)

        monkeypatch.setattr(Client, "get", raising)

        found = round_of_targets()

        assert {name: each["up"] for name, each in scraped(found).items()} == {
            "odd": False,
            "good": True,
        }

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        deadline=None,
        max_examples=60,
    )
    @given(
        st.binary()
        | st.lists(st.sampled_from(TOKENS)).map(
            lambda tokens: f"# TYPE n histogram\n{''.join(tokens)}".encode()
        ),
        st.sampled_from([TEXT, OPENMETRICS, "", "\x1b"]),
    )
    def test_no_page_ends_a_round(
        self, serve: Serve, body: bytes, content_type: str
    ) -> None:
        serve("odd", Page(content_type, body))

        found = round_of_targets()

        assert_storable(found)
        assert scraped(found).keys() == {"odd", "good"}
        assert scraped(found)["good"]["up"]


def statistics(name: str, success: int = 10, executions: int = 5) -> dict[str, Any]:
    step = {"count": executions, "ns": executions * 1_000_000}
    done = {"count": success, "ns": success * 2_000_000}
    return {
        "name": name,
        "version": "1",
        "last_inference": 1_795_440_000_000,
        "inference_count": executions,
        "execution_count": executions,
        "inference_stats": {
            "success": done,
            "fail": {"count": 0, "ns": 0},
            "queue": done,
            "compute_input": step,
            "compute_infer": step,
            "compute_output": step,
            "cache_hit": {"count": success - executions, "ns": 1},
            "cache_miss": {"count": executions, "ns": 1},
        },
        "response_stats": {"0": {"success": done}},
        "batch_stats": [],
    }


class TestModels:
    @pytest.fixture
    def collector(self, clock: Clock) -> TritonCollector:
        return TritonCollector(TritonConfig(), "http://odd:1", {}, elapsed=clock)

    def models(
        self, serve: Serve, collector: TritonCollector, *stats: Any
    ) -> dict[str, Any]:
        body = json.dumps({"model_stats": stats}).encode()
        serve("odd", Page("application/json", body))
        return {
            each.record["tags"].get("model", "scrape"): each.record["fields"]
            for each in collector.collect()
        }

    @pytest.mark.parametrize(
        "odd",
        [
            {"name": "odd", "version": "1"},
            {**statistics("odd"), "inference_stats": None},
            {**statistics("odd"), "inference_count": "many"},
            {**statistics("odd"), "inference_stats": {"success": {"count": 1}}},
            {**statistics("odd"), "name": None},
            {**statistics("odd"), "inference_count": 10**400},
            None,
            "odd",
            [],
        ],
    )
    def test_a_model_without_statistics_hides_no_other(
        self,
        serve: Serve,
        collector: TritonCollector,
        caplog: pytest.LogCaptureFixture,
        odd: object,
    ) -> None:
        for _ in range(2):
            found = self.models(serve, collector, odd, statistics("good"))
            assert found["good"]["requests"] == 10
            assert found["scrape"]["up"]

        assert len(caplog.messages) <= 1

    def test_hits_of_a_cache_are_requests_without_executions(
        self, serve: Serve, clock: Clock, collector: TritonCollector
    ) -> None:
        """Counts as in triton-inference-server/server#6869."""
        self.models(serve, collector, statistics("m", 10, 10))
        clock.seconds += 10
        found = self.models(serve, collector, statistics("m", 40, 20))["m"]
        clock.seconds += 10
        idle = self.models(serve, collector, statistics("m", 60, 20))["m"]

        assert found["requests_per_second"] == 3.0
        assert found["executions_per_second"] == 1.0
        assert found["request_ms"] == 2.0
        assert found["compute_infer_ms"] == 1.0
        assert idle["requests_per_second"] == 2.0
        assert idle["request_ms"] == 2.0
        assert "compute_infer_ms" not in idle
        assert "rows_per_execution" not in idle

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        deadline=None,
        max_examples=60,
    )
    @given(
        st.binary()
        | st.recursive(
            st.none() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda content: json.dumps({"model_stats": content}).encode())
    )
    def test_no_answer_ends_a_round(
        self, serve: Serve, collector: TritonCollector, body: bytes
    ) -> None:
        serve("odd", Page("application/json", body))

        found = list(collector.collect())

        assert_storable(found)
        assert found[-1].record["name"] == "scrape"
