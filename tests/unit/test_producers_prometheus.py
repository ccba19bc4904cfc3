"""Pages of metrics become records: each type, and each fault."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.producers.collecting import Counters
from meshtasks.producers.http import Page
from meshtasks.producers.prometheus.exposition import (
    LeftOut,
    Moment,
    Translated,
    Translator,
    quantile,
)
from meshtasks.producers.prometheus.scraping import Unreadable, families
from meshtasks.records.points import fields_text, metric_start, tags_of

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
#: Two pages are this far apart.
SECONDS = 10.0
NOW = 1_795_450_000.0

HISTOGRAM = """\
# TYPE request_seconds histogram
request_seconds_bucket{{le="0.1"}} {0}
request_seconds_bucket{{le="0.5"}} {1}
request_seconds_bucket{{le="+Inf"}} {2}
request_seconds_sum {3}
request_seconds_count {2}
"""


class Reader:
    """Reads the pages of one target, ten seconds apart."""

    def __init__(self, **options: Any) -> None:
        self._counters = Counters(3 * SECONDS)
        config = {"quantiles": (0.5, 0.9), "buckets": False, **options}
        tags = {"instance": "host:1"}
        self._translator = Translator("shop", tags, self._counters, **config)
        self.moment = Moment(500.0, NOW)

    def __call__(self, text: str, content_type: str = TEXT) -> Translated:
        found = families(Page(content_type, text.encode()), series_limit=100)
        translated = self._translator.translate(found, self.moment)
        self._counters.forget_unread()
        at_seconds, wall_seconds = self.moment
        self.moment = Moment(at_seconds + SECONDS, wall_seconds + SECONDS)
        return translated


@pytest.fixture
def read() -> Reader:
    return Reader()


def found(translated: Translated) -> list[tuple[str, dict[str, Any]]]:
    """Names and fields."""
    records = [each.record for each in translated.metrics]
    return [(record["name"], record["fields"]) for record in records]


def only(translated: Translated) -> Any:
    """The fields of the one metric."""
    ((_, fields),) = found(translated)
    return fields


class TestTypes:
    @pytest.mark.parametrize("name", ["orders_total", "orders"])
    def test_a_counter_has_a_total_and_from_the_second_page_on_a_rate(
        self, read: Reader, name: str
    ) -> None:
        page = f"# TYPE {name} counter\n{name} {{}}\n"

        assert found(read(page.format(100))) == [("orders", {"total": 100})]
        assert only(read(page.format(150))) == {"total": 150, "per_second": 5.0}

    def test_a_counter_that_was_restarted_has_no_rate_on_that_page(
        self, read: Reader
    ) -> None:
        page = "# TYPE orders counter\norders {}\n"
        read(page.format(100))

        assert only(read(page.format(3))) == {"total": 3}
        assert only(read(page.format(13))) == {"total": 13, "per_second": 1.0}

    def test_gauges_and_untyped_series_have_a_value(self, read: Reader) -> None:
        page = '# TYPE queue gauge\nqueue{name="a"} 5\nunknown_thing -0.25\n'

        assert found(read(page)) == [
            ("queue", {"value": 5}),
            ("unknown_thing", {"value": -0.25}),
        ]

    def test_a_summary_has_its_quantiles_in_fields(self, read: Reader) -> None:
        page = (
            "# TYPE wait_seconds summary\n"
            'wait_seconds{{quantile="0.5"}} 0.2\n'
            'wait_seconds{{quantile="0.999"}} 1.5\n'
            "wait_seconds_sum {0}\nwait_seconds_count {1}\n"
        )
        read(page.format(10.0, 50))

        assert only(read(page.format(16.0, 70))) == {
            "p50": 0.2,
            "p99_9": 1.5,
            "sum": 16.0,
            "count": 70,
            "count_per_second": 2.0,
            "mean": pytest.approx(0.3),
        }

    def test_a_histogram_has_quantiles_of_what_came_since_the_page_before(
        self, read: Reader
    ) -> None:
        assert only(read(HISTOGRAM.format(10, 100, 100, 30.0))) == {
            "sum": 30.0,
            "count": 100,
        }

        assert only(read(HISTOGRAM.format(20, 110, 120, 42.0))) == {
            "sum": 42.0,
            "count": 120,
            "count_per_second": 2.0,
            "mean": pytest.approx(0.6),
            "p50": 0.1,
            "p90": 0.5,
        }

    def test_an_interval_without_values_has_no_quantiles(self, read: Reader) -> None:
        read(HISTOGRAM.format(10, 100, 100, 30.0))

        fields = only(read(HISTOGRAM.format(10, 100, 100, 30.0)))

        assert fields == {"sum": 30.0, "count": 100, "count_per_second": 0.0}

    def test_the_buckets_of_a_histogram_keep_their_bounds_in_a_tag(self) -> None:
        read = Reader(buckets=True)

        buckets = [
            (each.record["tags"]["le"], each.record["fields"])
            for each in read(HISTOGRAM.format(10, 90, 100, 30.0)).metrics
            if "le" in each.record["tags"]
        ]

        assert buckets == [
            ("0.1", {"bucket": 10}),
            ("0.5", {"bucket": 90}),
            ("+Inf", {"bucket": 100}),
        ]

    def test_a_sum_that_falls_over_negative_values_is_no_restart(
        self, read: Reader
    ) -> None:
        read(HISTOGRAM.format(10, 100, 100, 30.0))

        fields = only(read(HISTOGRAM.format(20, 110, 110, 25.0)))

        assert fields["count_per_second"] == 1.0
        assert "mean" not in fields

    @pytest.mark.parametrize(
        ("page", "content_type", "expected"),
        [
            # Names of UTF-8 (client_python#1013); label values that are empty are none.
            ('{"my.metric",a=""} 1\n', TEXT, [("my.metric", {"value": 1})]),
            (
                "queue 5\r\nother 6",
                TEXT,
                [("queue", {"value": 5}), ("other", {"value": 6})],
            ),
            (
                (
                    "# TYPE a counter\na 1\n# TYPE b gauge\nb 2\n"
                    '# TYPE a counter\na{x="y"} 3\n'
                ),
                TEXT,
                [("a", {"total": 1}), ("b", {"value": 2}), ("a", {"total": 3})],
            ),
            (
                "# TYPE a gauge\na 1 1795449990.25\n# EOF\n",
                "application/openmetrics-text; version=0.0.1",
                [("a", {"value": 1})],
            ),
            (
                (
                    "# TYPE h histogram\n"
                    'h_bucket{le="+Inf"} 4 # {trace_id="x"} 0.5 1795449990\n'
                    "h_count 4\nh_sum 2\n# EOF"
                ),
                OPENMETRICS,
                [("h", {"count": 4, "sum": 2})],
            ),
        ],
    )
    def test_what_exporters_show_is_taken(
        self, read: Reader, page: str, content_type: str, expected: list[Any]
    ) -> None:
        translated = read(page, content_type)

        assert found(translated) == expected
        assert not translated.left_out

    def test_a_page_in_openmetrics_gives_the_same(self, read: Reader) -> None:
        page = (
            "# TYPE orders counter\n"
            'orders_total {} # {{trace_id="abc"}} 1.0\n'
            "orders_created 1795440000\n"
            "# TYPE build info\n"
            'build_info{{version="2.1"}} 1\n'
            "# EOF\n"
        )
        read(page.format(100), OPENMETRICS)

        assert found(read(page.format(150), OPENMETRICS)) == [
            ("orders", {"total": 150, "per_second": 5.0}),
            ("build_info", {"value": 1}),
        ]


class TestPlaces:
    def test_a_metric_goes_under_service_and_name(self, read: Reader) -> None:
        (measured,) = read('queue{name="a"} 5\n').metrics

        assert measured.routing_key == "metrics.application.shop.queue"
        assert measured.record["tags"] == {
            "service": "shop",
            "instance": "host:1",
            "name": "a",
        }
        assert measured.record["timestamp"] == NOW

    def test_a_label_does_not_hide_a_tag_of_the_target(self, read: Reader) -> None:
        (measured,) = read('queue{service="other"} 5\n').metrics

        assert measured.record["tags"]["service"] == "shop"
        assert measured.record["tags"]["exported_service"] == "other"

    @pytest.mark.parametrize(
        ("page", "tags"),
        [
            (
                (
                    'q{instance="a",exported_instance="b"} 1\n'
                    'q{instance="b",exported_instance="b"} 2\n'
                    'q{exported_instance="b"} 3\n'
                ),
                [
                    {"exported_exported_instance": "a", "exported_instance": "b"},
                    {"exported_exported_instance": "b", "exported_instance": "b"},
                    {"exported_instance": "b"},
                ],
            ),
            (
                'q{time="a",_x="b"} 1\n',
                [{"exported_time": "a", "exported__x": "b"}],
            ),
            (
                'q{service="a",exported_service="b",exported_exported_service="c"} 1\n',
                [
                    {
                        "exported_exported_exported_service": "a",
                        "exported_service": "b",
                        "exported_exported_service": "c",
                    }
                ],
            ),
        ],
    )
    def test_labels_that_give_way_to_a_tag_merge_no_two_series(
        self, read: Reader, page: str, tags: list[dict[str, str]]
    ) -> None:
        own = {"service": "shop", "instance": "host:1"}

        found = [each.record["tags"] for each in read(page).metrics]

        assert found == [own | each for each in tags]

    def test_series_that_are_one_to_the_store_are_a_duplicate_and_not_overwritten(
        self, read: Reader
    ) -> None:
        translated = read('q{a=" "} 1\nq 2\nq{a=""} 3\nq{a="x"} 4\n')

        assert found(translated) == [("q", {"value": 1}), ("q", {"value": 4})]
        assert translated.left_out == {LeftOut.DUPLICATE: 2}

    def test_labels_of_windows_and_of_several_lines_are_stored(
        self, read: Reader
    ) -> None:
        """As windows_exporter shows services (its issue #919)."""
        page = (
            'windows_service_state{path="C:\\\\Windows\\\\a.exe"} 1\n'
            'x_info{msg="one\\ntwo",user="DOMAIN\\\\me"} 1\n'
        )

        translated = read(page)

        assert not translated.left_out
        assert [
            metric_start(
                each.record["name"], tuple(sorted(each.record["tags"].items()))
            )
            for each in translated.metrics
        ] == [
            (
                r"windows_service_state,instance=host:1,path=C:\Windows\a.exe,"
                "service=shop "
            ),
            "x_info,instance=host:1,msg=one\\ntwo,service=shop,user=DOMAIN\\me ",
        ]

    def test_a_time_on_the_page_is_kept_and_is_the_clock_of_rates(
        self, read: Reader
    ) -> None:
        page = "# TYPE orders counter\norders {} {}\n"
        read(page.format(100, int(NOW - 60) * 1000))

        (measured,) = read(page.format(150, int(NOW - 35) * 1000)).metrics

        assert measured.record["timestamp"] == NOW - 35
        assert measured.record["fields"] == {"total": 150, "per_second": 2.0}


class TestFaults:
    @pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
    def test_what_is_not_finite_is_left_out_and_counted(
        self, read: Reader, value: str
    ) -> None:
        page = (
            "# TYPE wait_seconds summary\n"
            f'wait_seconds{{quantile="0.5"}} {value}\n'
            "wait_seconds_count 0\n"
            f"queue {value}\n"
        )

        translated = read(page)

        assert found(translated) == [("wait_seconds", {"count": 0})]
        assert translated.left_out == {LeftOut.NOT_FINITE: 2}

    def test_of_a_duplicate_the_first_counts(self, read: Reader) -> None:
        translated = read('queue{name="a"} 5\nqueue{name="a"} 6\nqueue{name="b"} 7\n')

        assert found(translated) == [("queue", {"value": 5}), ("queue", {"value": 7})]
        assert translated.left_out == {LeftOut.DUPLICATE: 1}

    @pytest.mark.parametrize(
        ("page", "reason"),
        [
            ('disk{path="\x07"} 1\n', "x07"),
            (f'disk{{path="{"x" * 256}"}} 1\n', "256 characters"),
            ("_disk 1\n", "underscore"),
            ("disk 1 1000\n", "before the year 2000"),
            (f"{'x' * 250} 1\n", "routing key is longer"),
            ('# TYPE h histogram\nh_bucket{le="low"} 1\n', "'le': 'low'"),
            ("# TYPE h histogram\nh_bucket 1\n", "h_bucket"),
        ],
    )
    def test_what_the_mesh_would_refuse_is_left_out_with_the_reason(
        self, read: Reader, page: str, reason: str
    ) -> None:
        translated = read(f"{page}queue 5\n")

        assert found(translated) == [("queue", {"value": 5})]
        assert translated.left_out == {LeftOut.REFUSED: 1}
        assert reason in translated.example

    @pytest.mark.parametrize(
        ("page", "content_type"),
        [
            ("<html><body>Not Found</body></html>", "text/html"),
            ('queue{name="a} 5\n', TEXT),
            ("queue five\n", TEXT),
            ("queue 5\n", OPENMETRICS),  # breaks off: no # EOF
            ("# TYPE a stateset\na 1\n# EOF\n", OPENMETRICS),
            ("# TYPE a summary\na 1\n# EOF\n", OPENMETRICS),
        ],
    )
    def test_a_page_that_is_none_is_refused_whole(
        self, page: str, content_type: str
    ) -> None:
        good_page = f"first 1\n{page}"

        with pytest.raises(Unreadable, match=content_type.partition(";")[0]):
            families(Page(content_type, good_page.encode()), series_limit=100)

    def test_bytes_that_are_not_utf_8_are_refused(self) -> None:
        with pytest.raises(Unreadable, match="utf-8"):
            families(Page(TEXT, b"queue\xff 5\n"), series_limit=100)

    def test_a_page_of_too_many_series_is_refused_with_their_number(self) -> None:
        page = "# HELP queue of things\n" + 'queue{name="a"} 5\n' * 100_000

        with pytest.raises(Unreadable, match=r"100,000 series.*series_limit \(20,000"):
            families(Page(TEXT, page.encode()), series_limit=20_000)

    @given(st.text(st.sampled_from('a{}="\\,# \n01.e+NaInf_tolbuckesTYPE')))
    def test_no_page_is_more_than_refused(self, text: str) -> None:
        for content_type in (TEXT, OPENMETRICS):
            try:
                translated = Reader()(text, content_type)
            except Unreadable:
                continue
            for measured in translated.metrics:
                record: Any = measured.record
                assert metric_start(record["name"], tags_of(record))
                assert fields_text(record["fields"])


class TestQuantile:
    BUCKETS = ((1.0, 10.0), (2.0, 30.0), (4.0, 40.0), (math.inf, 50.0))

    @pytest.mark.parametrize(
        ("q", "value"), [(0.1, 0.5), (0.2, 1.0), (0.4, 1.5), (0.8, 4.0), (0.99, 4.0)]
    )
    def test_values_are_taken_to_be_spread_evenly_over_their_bucket(
        self, q: float, value: float
    ) -> None:
        assert quantile(q, self.BUCKETS) == pytest.approx(value)

    def test_below_a_first_bound_of_zero_there_is_only_that_bound(self) -> None:
        assert quantile(0.1, ((-5.0, 10.0), (math.inf, 10.0))) == -5.0

    @pytest.mark.parametrize(
        "buckets",
        [
            (),
            ((math.inf, 5.0),),
            ((1.0, 0.0), (math.inf, 0.0)),
            ((1.0, 5.0), (2.0, 5.0)),
        ],
        ids=["none", "no bound", "no values", "no last bucket"],
    )
    def test_sometimes_there_is_no_quantile(
        self, buckets: tuple[tuple[float, float], ...]
    ) -> None:
        assert quantile(0.5, buckets) is None
