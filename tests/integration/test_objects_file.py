"""A directory as object store: what crashes and bad disks do to it."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshtasks.errors import SinkRejected, SinkUnavailable
from meshtasks.flows.archive.objects import FileStore
from tests.support.waiting import wait_until


@pytest.fixture
def room_for_a_megabyte() -> Iterator[Callable[[], None]]:
    """No file can grow beyond a megabyte, as if the disk were full then; gives what
    makes room again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_relative_directory_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore(".mesh/archive")
    assert list(tmp_path.iterdir()) == []

    store.put("events/home/one", b"1", {})

    assert (tmp_path / ".mesh/archive/events/home/one").read_bytes() == b"1"


def test_a_process_killed_while_it_stores_leaves_whole_objects_only(
    tmp_path: Path,
) -> None:
    size = 4 << 20
    storing = (
        "import itertools, meshtasks.flows.archive.objects as f\n"
        f"store = f.FileStore({str(tmp_path)!r})\n"
        "for n in itertools.count():\n"
        f"    store.put(f'events/{{n}}', bytes([n % 256]) * {size}, {{}})\n"
    )
    store = FileStore(tmp_path)
    with subprocess.Popen([sys.executable, "-c", storing]) as process:
        wait_until(lambda: len(list(store.list(""))) >= 3, 20, "three objects")
        process.kill()

    for found in store.list(""):
        number = int(found.name.rpartition("/")[2])
        assert store.get(found.name) == bytes([number % 256]) * size


@pytest.mark.usefixtures("room_for_a_megabyte")
def test_a_disk_that_fills_up_is_an_outage_and_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("events/small", b"1", {})

    with pytest.raises(SinkUnavailable, match="MESH_ARCHIVE_URL") as it:
        store.put("events/large", bytes(2 << 20), {})

    assert it.value.sink == "objects"
    assert [path.name for path in (tmp_path / "events").iterdir()] == ["small"]


def test_a_directory_that_cannot_be_made_is_an_outage_until_it_can(
    tmp_path: Path,
) -> None:
    in_the_way = tmp_path / "archive"
    in_the_way.write_text("a file")
    store = FileStore(in_the_way)
    with pytest.raises(SinkUnavailable, match=str(in_the_way)):
        store.probe()
    with pytest.raises(SinkUnavailable, match=str(in_the_way)):
        store.put("events/one", b"1", {})

    in_the_way.unlink()

    store.probe()
    store.put("events/one", b"1", {})


def test_a_prefix_leads_nowhere_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not ours")
    store = FileStore(tmp_path / "archive")

    with pytest.raises(SinkRejected):
        list(store.list("../"))
    with pytest.raises(SinkRejected):
        store.get("../secret")


def test_after_a_large_object_found_no_room_a_small_one_does_not_pass_for_the_end_of_it(
    tmp_path: Path, room_for_a_megabyte: Callable[[], None]
) -> None:
    store = FileStore(tmp_path)
    store.put("events/before", b"1", {})
    with pytest.raises(SinkUnavailable):
        store.put("events/large", bytes(2 << 20), {})

    with pytest.raises(SinkUnavailable, match="File too large"):
        store.put("events/small", b"1", {})
    with pytest.raises(SinkUnavailable, match="File too large"):
        store.probe()
    room_for_a_megabyte()
    store.put("events/small", b"1", {})

    assert [each.name for each in store.list("")] == ["events/before", "events/small"]
