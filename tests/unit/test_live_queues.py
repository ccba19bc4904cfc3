"""What the broker says of the members of a queue."""

from __future__ import annotations

import pytest

from meshtasks.amqp.management import LiveQueue


def queue(members: str, online: str, leader: str | None = None) -> LiveQueue:
    """A queue whose nodes are letters."""
    return LiveQueue(
        name="climate",
        durable=True,
        auto_delete=False,
        arguments={},
        members=tuple(members),
        online=tuple(online),
        leader=leader,
    )


@pytest.mark.parametrize(
    ("members", "online", "leader"),
    [("abc", "ab", "a"), ("abc", "abc", "c"), ("a", "a", None), ("abc", "", None)],
)
def test_a_queue_with_a_majority_goes_on(
    members: str, online: str, leader: str | None
) -> None:
    assert queue(members, online, leader).stands_still is None


def test_half_of_its_members_is_no_majority() -> None:
    reason = queue("ab", "b", "b").stands_still

    assert reason == "1 of 2 members run, which is no majority"


def test_a_node_that_is_no_member_any_more_does_not_count() -> None:
    reason = queue("ab", "bc", "c").stands_still

    assert reason == "1 of 2 members run, which is no majority"


def test_a_queue_whose_leader_is_no_member_any_more_has_none() -> None:
    reason = queue("ab", "abc", "c").stands_still

    assert reason == "c led it and is no member any more"
