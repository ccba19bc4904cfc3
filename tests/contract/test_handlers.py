"""What every handler owes the worker: an outcome per record, whatever else happens."""

from __future__ import annotations

import pytest

from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Retry
from meshtasks.records.envelope import Envelope
from meshtasks.worker.decode import Decoder
from tests.contract.cases import CASES, Case
from tests.contract.conftest import World
from tests.support.handling import HANDLERS, handle, message
from tests.support.waiting import wait_until

every_handler = pytest.mark.parametrize("case", CASES, ids=lambda case: case.queue)


def good(case: Case) -> Envelope:
    return message(case.queue, case.routing_key, case.good)


def bad(case: Case) -> Envelope:
    return message(case.queue, case.routing_key, case.bad)


def wait_for_effect(case: Case, world: World) -> None:
    """The store shows a new series a moment after it has taken it."""

    def is_seen() -> bool:
        return any(set(case.effect) <= set(effect) for effect in world.effects())

    wait_until(is_seen, 60, f"an effect with {case.effect}")


def test_every_handler_is_in_this_suite() -> None:
    assert {case.queue for case in CASES} == HANDLERS.keys()


@every_handler
def test_a_good_record_is_done_and_has_an_effect(case: Case, world: World) -> None:
    assert handle(world.sinks, good(case)) == [DONE]

    wait_for_effect(case, world)


@every_handler
def test_a_good_record_is_not_refused_beforehand(case: Case, world: World) -> None:
    handler, envelope = HANDLERS[case.queue], good(case)
    records = Decoder(handler).decode(envelope.body).records

    assert not handler.validate(records, [envelope], world.sinks.settings)


@every_handler
def test_a_second_run_of_a_batch_changes_nothing(case: Case, world: World) -> None:
    batch = [good(case), bad(case), good(case)]
    first = handle(world.sinks, *batch)
    wait_for_effect(case, world)
    effects = world.effects()

    second = handle(world.sinks, *batch)

    assert second == first
    assert world.effects() == effects


@every_handler
def test_bad_records_are_dead_with_a_reason_and_their_neighbours_are_done(
    case: Case, world: World
) -> None:
    unreadable = message(case.queue, case.routing_key, b'{"torn": ')
    array = b"[%b,%b]" % (good(case).body, bad(case).body)
    mixed = message(case.queue, case.routing_key, array)

    outcomes = handle(world.sinks, good(case), unreadable, bad(case), mixed)

    one, torn, two, three, four = outcomes
    assert one is three is DONE
    assert isinstance(torn, Dead)
    assert "not JSON" in torn.reason
    for dead in (two, four):
        assert isinstance(dead, Dead)
        assert case.reason in dead.reason


@every_handler
def test_without_any_service_good_records_wait_and_bad_ones_are_dead(
    case: Case, forsaken: Sinks
) -> None:
    waiting, dead = handle(forsaken, good(case), bad(case))

    assert isinstance(waiting, Retry)
    assert waiting.error_type in {"SinkUnavailable", "PublishUnconfirmed"}
    assert isinstance(dead, Dead)
