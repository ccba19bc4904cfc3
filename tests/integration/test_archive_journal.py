"""The journal knows which records are stored, whatever happens to its processes."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from meshtasks.state.archive_journal import ArchiveJournal
from meshtasks.state.database import StateLocation
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

DAY_SECONDS = 86_400.0


@pytest.fixture
def journal(state_location: StateLocation) -> Iterator[ArchiveJournal]:
    """A journal that nothing was ever noted in."""
    it = ArchiveJournal(state_location)
    yield it
    it.close()


def intend(journal: ArchiveJournal, objects: dict[str, list[str]]) -> None:
    """Claim the records of objects, and note that these are about to be put."""
    with journal.claim(name for ids in objects.values() for name in ids) as claim:
        claim.intend(objects)


def opening(location: StateLocation) -> str:
    """What a program begins with that has a journal."""
    url = location.url.render_as_string(hide_password=False)
    return (
        "from pathlib import Path\n"
        "from sqlalchemy import make_url\n"
        "from meshtasks.state.archive_journal import ArchiveJournal\n"
        "from meshtasks.state.database import StateLocation\n"
        f"where = Path({str(location.directory)!r})\n"
        f"location = StateLocation(make_url({url!r}), where)\n"
    )


def store(journal: ArchiveJournal, name: str, *ids: str) -> None:
    """Note an object as stored."""
    intend(journal, {name: list(ids)})
    journal.finish([name])


def test_a_record_nobody_stored_is_unknown(journal: ArchiveJournal) -> None:
    assert journal.stored(["a"]) == set()


def test_the_records_of_a_finished_object_are_stored(journal: ArchiveJournal) -> None:
    store(journal, "one", "a", "b")
    assert journal.stored(["a", "b", "c"]) == {"a", "b"}


def test_the_records_of_a_pending_object_are_not_yet_stored(
    journal: ArchiveJournal,
) -> None:
    intend(journal, {"one": ["a"], "two": ["b"]})

    assert journal.stored(["a", "b"]) == set()
    assert sorted(journal.pending()) == ["one", "two"]


def test_a_finished_object_is_no_longer_pending(journal: ArchiveJournal) -> None:
    intend(journal, {"one": ["a"], "two": ["b"]})
    journal.finish(["one"])
    assert journal.pending() == ["two"]


def test_a_forgotten_object_leaves_no_trace(journal: ArchiveJournal) -> None:
    intend(journal, {"one": ["a"]})

    journal.forget(["one"])

    assert journal.pending() == []
    assert journal.stored(["a"]) == set()


def test_what_was_noted_is_there_for_the_next_process(
    journal: ArchiveJournal, state_location: StateLocation
) -> None:
    store(journal, "one", "a")
    intend(journal, {"two": ["b"]})

    later = ArchiveJournal(state_location)

    assert later.stored(["a", "b"]) == {"a"}
    assert later.pending() == ["two"]
    later.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
@example(["a\0b", "a", "a\0"])
@example(['"', "\\u0000", "%", "\ud800"])
def test_any_text_can_be_an_id(journal: ArchiveJournal, ids: list[str]) -> None:
    store(journal, "one", *ids)
    assert journal.stored(ids) == set(ids)


def test_a_million_ids_do_not_stay_forever(state_location: StateLocation) -> None:
    small = ArchiveJournal(state_location, generation_ids=3)
    for number in range(20):
        store(small, f"object {number}", f"record {number}")

    known = small.stored([f"record {number}" for number in range(20)])

    assert {"record 17", "record 18", "record 19"} <= known
    assert len(known) <= 6
    small.close()


def test_an_id_is_known_for_as_long_as_a_message_may_be_retried(
    state_location: StateLocation,
) -> None:
    now = 0.0
    journal = ArchiveJournal(state_location, clock=lambda: now)
    for day in range(30):
        now = day * DAY_SECONDS
        store(journal, f"object {day}", f"record {day}")

    known = journal.stored([f"record {day}" for day in range(30)])

    assert {f"record {day}" for day in range(22, 30)} <= known
    assert "record 10" not in known
    journal.close()


def test_one_process_at_a_time_holds_a_file(tmp_path: Path) -> None:
    location = StateLocation.in_directory(tmp_path)
    journal = ArchiveJournal(location)
    waiting = threading.Event()
    held = threading.Event()

    def hold_too() -> None:
        other = ArchiveJournal(location)
        waiting.set()
        with other.hold():
            held.set()
        other.close()

    with journal.hold():
        thread = threading.Thread(target=hold_too)
        thread.start()
        waiting.wait()
        assert not held.wait(0.1)
    thread.join()
    journal.close()
    assert held.is_set()


def test_a_process_that_is_killed_lets_go(
    state_location: StateLocation, journal: ArchiveJournal
) -> None:
    holding = (
        f"import sys\n{opening(state_location)}"
        "with ArchiveJournal(location).hold():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

        process.kill()

        with journal.hold():
            assert journal.pending() == []


def test_killing_a_process_in_the_midst_of_noting_leaves_all_or_nothing(
    state_location: StateLocation, journal: ArchiveJournal
) -> None:
    noting = (
        f"import itertools\n{opening(state_location)}"
        "journal = ArchiveJournal(location)\n"
        "for n in itertools.count():\n"
        "    ids = [f'{n}/{i}' for i in range(100)]\n"
        "    with journal.claim(ids) as claim:\n"
        "        claim.intend({str(n): ids})\n"
        "    print(n, flush=True)\n"
        "    journal.finish([str(n)])\n"
    )
    journal.probe()
    with subprocess.Popen(
        [sys.executable, "-c", noting], stdout=subprocess.PIPE
    ) as process:
        wait_until(lambda: journal.stored(["9/0"]), 20, "ten objects noted")
        process.kill()
        assert process.stdout is not None
        begun = len(process.stdout.read().splitlines())

    pending = set(journal.pending())
    for number in range(begun):
        ids = [f"{number}/{i}" for i in range(100)]
        assert len(journal.stored(ids)) == (0 if str(number) in pending else 100)
    assert len(pending) <= 1


# Workers of several hosts, which share a database


@pytest.fixture
def shared(postgres: Postgres, postgres_template: str, tmp_path: Path) -> StateLocation:
    """A state in PostgreSQL."""
    url = make_url(postgres.url(postgres.new_database(postgres_template)))
    return StateLocation(url, tmp_path)


@pytest.fixture
def workers(shared: StateLocation) -> Iterator[tuple[ArchiveJournal, ArchiveJournal]]:
    """The journal as two hosts have it."""
    with (
        closing(ArchiveJournal(shared)) as one,
        closing(ArchiveJournal(shared)) as other,
    ):
        yield one, other


Workers = tuple[ArchiveJournal, ArchiveJournal]


def test_a_record_is_one_workers_until_its_object_is_stored(workers: Workers) -> None:
    one, other = workers
    intend(one, {"one": ["a", "b"]})

    with other.claim(["b", "c"]) as claim:
        assert (set(claim.new), set(claim.busy)) == ({"c"}, {"b"})
    one.finish(["one"])
    with other.claim(["b", "c"]) as claim:
        assert (claim.new, claim.busy) == (frozenset("c"), frozenset())


def test_what_a_living_worker_is_storing_is_left_to_it(workers: Workers) -> None:
    one, other = workers
    intend(one, {"one": ["a"]})

    assert other.abandoned() == []
    assert one.abandoned() == ["one"]


def test_what_a_worker_left_is_adopted_by_one_of_the_others(
    workers: Workers, shared: StateLocation
) -> None:
    one, other = workers
    third = ArchiveJournal(shared)
    intend(third, {"one": ["a"]})
    third.close()

    assert one.abandoned() == ["one"]
    assert other.abandoned() == []
    one.forget(["one"])
    with other.claim(["a"]) as claim:
        assert claim.new == {"a"}


def test_what_a_worker_releases_is_anybodys(workers: Workers) -> None:
    one, other = workers
    intend(one, {"one": ["a"]})

    one.release("one")

    assert other.abandoned() == ["one"]


def test_after_a_restart_of_the_server_a_claim_lasts_its_time(
    workers: Workers, shared: StateLocation, postgres: Postgres
) -> None:
    one, other = workers
    third = ArchiveJournal(shared)
    intend(third, {"one": ["a"]})
    third.close()
    database = shared.url.database or ""
    postgres.execute("UPDATE archive_pending SET server = 'before'", database)

    assert one.abandoned() == []
    postgres.execute("UPDATE archive_pending SET claimed_at = 0", database)
    assert other.abandoned() == ["one"]


def test_a_worker_that_lost_its_session_still_finishes_its_object(
    workers: Workers, shared: StateLocation
) -> None:
    one, _ = workers
    intend(one, {"one": ["a"]})
    one.close()

    one.finish(["one"])

    assert one.stored(["a"]) == {"a"}
    assert one.pending() == []


def test_of_records_claimed_at_the_same_time_each_is_one_workers(
    shared: StateLocation,
) -> None:
    everything = [str(number) for number in range(200)]

    def take(seed: int) -> list[str]:
        taken: list[str] = []
        with closing(ArchiveJournal(shared)) as journal:
            for number in range(10):
                ids = random.Random(seed + number).sample(everything, 60)
                with journal.claim(ids) as claim:
                    if claim.new:
                        claim.intend({f"{seed + number}": sorted(claim.new)})
                if claim.new:
                    journal.finish([f"{seed + number}"])
                taken += claim.new
        return taken

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(take, range(0, 4_000, 1_000)))
    taken = Counter(name for result in results for name in result)

    assert set(taken.values()) == {1}
    with closing(ArchiveJournal(shared)) as journal:
        assert journal.stored(everything) == set(taken)
        assert journal.pending() == []
