"""Acknowledging runs of delivery tags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshtasks.worker.queue_consumer import Ack, AckWatermark


def test_a_batch_from_the_start_is_acknowledged_with_one_frame() -> None:
    assert AckWatermark(100).resolve([1, 2, 3]) == [Ack(3, multiple=True)]


def test_a_single_message_is_acknowledged_alone() -> None:
    assert AckWatermark(100).resolve([1]) == [Ack(1, multiple=False)]


def test_a_later_batch_waits_for_the_one_before_it() -> None:
    watermark = AckWatermark(100)

    assert watermark.resolve([3, 4]) == []
    assert watermark.resolve([1, 2]) == [Ack(4, multiple=True)]


def test_too_many_waiting_tags_are_acknowledged_one_by_one() -> None:
    watermark = AckWatermark(max_waiting=1)

    assert watermark.resolve([3, 4]) == [Ack(3, multiple=False), Ack(4, multiple=False)]
    assert watermark.resolve([1, 2]) == [Ack(2, multiple=True)]
    assert watermark.resolve([5]) == [Ack(5, multiple=False)]


def test_a_rejected_message_is_never_acknowledged_but_does_not_block() -> None:
    watermark = AckWatermark(100)
    watermark.skip(1)

    assert watermark.resolve([2]) == [Ack(2, multiple=True)]


@given(
    order=st.permutations(list(range(1, 25))),
    cuts=st.lists(st.integers(1, 6), min_size=24, max_size=24),
    max_waiting=st.integers(1, 30),
)
def test_every_tag_is_acknowledged_exactly_once_and_only_after_it_settled(
    order: list[int], cuts: list[int], max_waiting: int
) -> None:
    watermark = AckWatermark(max_waiting)
    open_at_broker = set(order)
    resolved: set[int] = set()
    remaining = list(order)
    for size in cuts:
        batch, remaining = remaining[:size], remaining[size:]
        resolved.update(batch)
        for ack in watermark.resolve(batch):
            covered = (
                {tag for tag in open_at_broker if tag <= ack.delivery_tag}
                if ack.multiple
                else {ack.delivery_tag}
            )
            assert covered <= resolved
            assert ack.delivery_tag in open_at_broker
            open_at_broker -= covered
    assert not open_at_broker
