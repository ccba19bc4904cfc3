"""How often a caller may ask."""

from __future__ import annotations

from meshtasks.gateway.clients import RateLimit


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    limit = RateLimit(per_second=2, burst=3)

    assert [limit.wait_seconds("a", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait_seconds("a", 10.5) == 0
    assert limit.wait_seconds("a", 10.5) == 0.5


def test_a_rest_fills_the_bucket_no_higher_than_its_brim() -> None:
    limit = RateLimit(per_second=1, burst=2)
    limit.wait_seconds("a", 0.0)

    assert [limit.wait_seconds("a", 1e6) for _ in range(3)] == [0, 0, 1]


def test_callers_do_not_share() -> None:
    limit = RateLimit(per_second=1, burst=1)
    limit.wait_seconds("a", 0.0)

    assert limit.wait_seconds("b", 0.0) == 0


def test_what_counts_as_several_waits_until_all_of_it_may_go() -> None:
    limit = RateLimit(per_second=2, burst=10)

    assert limit.wait_seconds("a", 0.0, count=8) == 0
    assert limit.wait_seconds("a", 0.0, count=8) == 3
    assert limit.wait_seconds("a", 3.0, count=8) == 0
