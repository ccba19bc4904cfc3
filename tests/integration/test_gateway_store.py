"""What the gateway remembers over restarts, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import pytest

from meshtasks.amqp.calls import Answer
from meshtasks.gateway.problems import Problem
from meshtasks.gateway.store import Store
from meshtasks.state.database import StateLocation

HOUR = 3600.0
DAY = 86_400.0


@pytest.fixture
def store(state_location: StateLocation) -> Iterator[Store]:
    store = Store(state_location, 24 * HOUR, 7 * DAY)
    yield store
    store.close()


def answer(state: str, at: float = 1.0, **fields: object) -> Answer:
    return Answer.model_validate({"task_id": "t", "state": state, "at": at, **fields})


def test_tasks_and_keys_outlive_a_restart(
    state_location: StateLocation, store: Store
) -> None:
    store.submitted("t", "infer", "n8n", 1.0)
    store.reserve("n8n", "k", "digest", "t", 1.0)
    store.respond("n8n", "k", {"content": {}})
    store.close()

    again = Store(state_location, 24 * HOUR, 7 * DAY)
    task = again.task("t")
    known = again.reserve("n8n", "k", "digest", "new", 2.0)
    again.close()

    assert task is not None
    assert task.state == "PENDING"
    assert known == ("t", {"content": {}})


def test_a_key_is_free_again_after_its_time(store: Store) -> None:
    store.reserve("n8n", "k", "digest", "first", 0.0)
    store.respond("n8n", "k", {})

    assert store.reserve("n8n", "k", "other", "new", 24 * HOUR + 1) == ("new", None)


def test_a_request_under_way_is_not_begun_twice(store: Store) -> None:
    store.reserve("n8n", "k", "digest", "first", 0.0)

    with pytest.raises(Problem) as caught:
        store.reserve("n8n", "k", "digest", "new", 1.0)

    assert caught.value.status == HTTPStatus.CONFLICT


def test_a_request_that_was_cut_off_goes_on_with_its_id(store: Store) -> None:
    store.reserve("n8n", "k", "digest", "first", 0.0)

    assert store.reserve("n8n", "k", "digest", "new", 61.0) == ("first", None)


def test_news_that_come_late_do_not_undo_the_end(store: Store) -> None:
    store.submitted("t", "infer", "n8n", 1.0)
    store.answered(answer("SUCCESS", result=[1]))
    store.answered(answer("STARTED"))

    task = store.task("t")
    assert task is not None
    assert (task.state, task.result) == ("SUCCESS", [1])


def test_an_answer_that_comes_before_its_task_is_kept_for_it(store: Store) -> None:
    store.answered(answer("SUCCESS"))
    unknown = store.task("t")
    store.submitted("t", "infer", "n8n", 2.0)

    task = store.task("t")
    assert unknown is None
    assert task is not None
    assert task.state == "SUCCESS"


def test_a_task_is_forgotten_after_its_time(store: Store) -> None:
    store.submitted("t", "infer", "n8n", 0.0)
    store.submitted("u", "infer", "n8n", 7 * DAY + 1)

    assert store.task("t") is None
    assert store.task("u") is not None
