"""What waits on disk: across restarts, in the face of damage, one process at a time."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import ConfigError
from meshtasks.producers import spool as spool_module
from meshtasks.producers.buffer import Pending
from meshtasks.producers.spool import Spool, SpoolLimits

LIMITS = SpoolLimits(1_000_000, 1_000_000_000)

MakeSpool = Callable[..., Spool]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "test.sqlite3"


@pytest.fixture
def new_spool(path: Path) -> Iterator[MakeSpool]:
    """Opens the spool; all are closed at the end."""
    with ExitStack() as spools:

        def make(limits: SpoolLimits = LIMITS) -> Spool:
            spool = Spool(path, limits)
            spools.callback(spool.close)
            return spool

        yield make


def fill(spool: Spool, *numbers: int) -> None:
    for number in numbers:
        message = Outgoing("readings", "key", b"%d" % number, message_id=f"id-{number}")
        spool.append(Pending(message, 1))


def numbers_in(spool: Spool) -> list[int]:
    found = []
    while batch := spool.take(count=100, size_bytes=1_000_000):
        found += [int(each.message.body) for each in batch]
        spool.resolve()
    return found


def test_the_next_run_finds_what_was_not_confirmed(new_spool: MakeSpool) -> None:
    earlier = new_spool()
    fill(earlier, *range(250))
    earlier.take(count=100, size_bytes=1_000_000)
    earlier.resolve()
    earlier.take(count=100, size_bytes=1_000_000)  # published, but not confirmed

    assert earlier.close() == ()

    spool = new_spool()
    assert spool.restored_records == 150
    fill(spool, 250)
    assert numbers_in(spool) == list(range(100, 251))


def test_while_the_broker_confirms_nothing_is_written(
    new_spool: MakeSpool, path: Path
) -> None:
    spool = new_spool()
    spool.resolve()
    for start in range(0, 1_000, 100):
        fill(spool, *range(start, start + 100))
        spool.take(count=100, size_bytes=1_000_000)
        spool.resolve()
    spool.close()

    with sqlite3.connect(path) as database:
        (row,) = database.execute("SELECT count(*), max(id) FROM message")
    database.close()
    assert row == (0, None)
    assert not path.with_name(f"{path.name}-wal").exists()


def test_what_is_not_confirmed_in_time_is_written_though_the_broker_seems_well(
    new_spool: MakeSpool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "WRITE_AFTER_SECONDS", -1.0)
    spool = new_spool()
    spool.resolve()
    fill(spool, 1)
    spool.take(count=1, size_bytes=100)
    fill(spool, 2)

    assert written_by_a_killed_process(path, spool) == [1, 2]


def written_by_a_killed_process(path: Path, spool: Spool) -> list[int]:
    """What a copy of the file holds, without the process's help."""
    copy = path.with_name("copy.sqlite3")
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            copy.with_name(copy.name + suffix).write_bytes(source.read_bytes())
    other = Spool(copy, LIMITS)
    found = numbers_in(other)
    other.close()
    return found


_KILLED = """
import sys
from pathlib import Path
from meshtasks.amqp.publisher import Outgoing
from meshtasks.producers.buffer import Pending
from meshtasks.producers.spool import Spool, SpoolLimits
spool = Spool(Path(sys.argv[1]), SpoolLimits(1_000_000, 1_000_000_000))
for number in range(1_000_000):
    spool.append(Pending(Outgoing("readings", "key", b"%d" % number), 1))
    print(number, flush=True)
"""


def test_all_that_was_appended_is_there_after_the_process_was_killed(
    new_spool: MakeSpool, path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for _ in range(500):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().splitlines()  # the last line may be cut off
    process.communicate(timeout=300)

    appended = 500 + len(said) - 1
    found = numbers_in(new_spool())
    assert found == list(range(len(found)))
    assert len(found) >= appended


def test_a_second_process_is_refused(new_spool: MakeSpool) -> None:
    new_spool()

    with pytest.raises(ConfigError, match=r"test\.sqlite3 is in use by another"):
        new_spool()


def test_a_place_where_nothing_can_be_written_stops_the_start(path: Path) -> None:
    path.parent.write_text("a file, not a directory")

    with pytest.raises(ConfigError, match="MESH_STATE_DIR"):
        Spool(path, LIMITS)


@pytest.mark.parametrize(
    "content",
    [b"no database at all" * 100, b"", b"SQLite format 3\0" + b"\xff" * 9_000],
)
def test_a_file_that_is_no_spool_is_set_aside(
    new_spool: MakeSpool, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    spool = new_spool()
    fill(spool, 1, 2)

    assert numbers_in(spool) == [1, 2]
    if content:  # an empty file is an empty database
        (aside,) = path.parent.glob("*.corrupt-*")
        assert aside.read_bytes() == content
        assert str(aside) in caplog.text


def test_a_file_of_another_program_is_not_touched(
    new_spool: MakeSpool, path: Path
) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE precious (value)")
    database.close()

    fill(new_spool(), 1)

    (aside,) = path.parent.glob("*.corrupt-*")
    with sqlite3.connect(aside) as database:
        assert list(database.execute("SELECT * FROM precious")) == []
    database.close()


def test_damage_that_is_met_later_sets_the_file_aside_and_loses_nothing_new(
    new_spool: MakeSpool, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = new_spool()
    fill(earlier, *range(5_000))
    earlier.close()
    damage_leaves(path)

    spool = new_spool()
    spool.resolve()
    fill(spool, 5_000, 5_001)
    found = numbers_in(spool)

    assert found[-2:] == [5_000, 5_001]
    assert found == sorted(found)
    assert "set aside" in caplog.text
    assert list(path.parent.glob("*.corrupt-*"))


def damage_leaves(path: Path) -> None:
    """Overwrite the middle of the file; its first pages stay readable."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 2)
        file.write(os.urandom(16_384))


def test_a_spool_that_was_emptied_gives_its_space_back(
    new_spool: MakeSpool, path: Path
) -> None:
    spool = new_spool()
    for _ in range(200):
        spool.append(Pending(Outgoing("readings", "key", b"x" * 20_000), 1))
    spool.close()
    assert path.stat().st_size > 4_000_000

    spool = new_spool()
    while spool.take(count=100, size_bytes=10_000_000):
        spool.resolve()
    spool.close()

    assert path.stat().st_size < 100_000


def test_while_the_disk_is_full_messages_wait_in_memory(
    new_spool: MakeSpool, caplog: pytest.LogCaptureFixture
) -> None:
    spool = new_spool()
    fill(spool, 1)
    with disk_full():
        fill(spool, *range(2, 1_000))

        assert spool.waiting == 999
        assert "wait in memory" in caplog.text
    fill(spool, 1_000)

    assert spool.close() == ()
    assert numbers_in(new_spool()) == list(range(1, 1_001))


@contextmanager
def disk_full() -> Iterator[None]:
    """No file of this process can grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_memory_drops_its_oldest_while_the_disk_is_full(
    new_spool: MakeSpool,
) -> None:
    spool = new_spool(SpoolLimits(1_000, 1_000_000, memory_messages=10))
    fill(spool, 1)
    with disk_full():
        fill(spool, *range(2, 100))

    assert numbers_in(spool) == [1, *range(90, 100)]


def test_a_header_that_could_not_be_written_is_refused_at_once(
    new_spool: MakeSpool,
) -> None:
    message = Outgoing("readings", "key", b"1", headers={"raw": b"\xff"})

    with pytest.raises(TypeError, match="bytes"):
        new_spool().append(Pending(message, 1))
