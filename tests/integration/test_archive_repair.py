"""``meshtasks archive verify --repair``: objects that a power cut took, made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.analytics.compaction import Compaction
from meshtasks.flows.archive.objects import OBJECTS, ObjectStore, archived_objects
from meshtasks.flows.sinks import Sinks
from tests.support.analytics import archive, ids_in, parquet_names
from tests.support.archive import (
    NOON,
    bucket_environment,
    directory_environment,
    lines_in,
)
from tests.support.command import Command

HOUR = 3_600.0
METRIC = {"name": "cpu", "fields": {"load": 0.5, "up": True, "os": "linux"}}
REPAIR = ("archive", "verify", "--repair")


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    """A directory, or a bucket where a test asks for one."""
    if getattr(request, "param", "directory") == "directory":
        return directory_environment(tmp_path)
    return bucket_environment(request.getfixturevalue("swift").target, tmp_path)


@pytest.fixture
def sinks(environment: Environment) -> Iterator[Sinks]:
    """An archive of a day: motion and readings of two hours, and metrics."""
    with closing(Sinks(Settings(environment))) as sinks:
        for hour in range(2):
            start = NOON + hour * HOUR
            name = f"h{hour}"
            motion = [{"motion": True}, {"motion": False}]
            archive(sinks, "home.motion.hall", *motion, start=start, name=name)
            values = [{"value": 68 + n, "unit": "°F"} for n in range(3)]
            key = "sensors.temperature.attic"
            archive(sinks, key, *values, start=start, name=f"a{hour}")
            archive(sinks, key, *values, start=start + 60, name=f"b{hour}")
        archive(sinks, "metrics.system.nas", METRIC, name="c")
        yield sinks


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {each.name: store.get(each.name) for each in archived_objects(store)}


def named(store: ObjectStore, part: str) -> list[str]:
    return [name for name in contents(store) if part in name]


def identity(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[key]) for key in ("id", "exchange", "routing_key", "time"))


def compact(sinks: Sinks) -> None:
    Compaction(sinks.settings, sinks[OBJECTS], report=lambda _: None).run()


def zeros(store: ObjectStore, name: str) -> None:
    store.put(name, bytes(len(store.get(name))), dict(store.read(name).metadata))


def cut(store: ObjectStore, name: str) -> None:
    store.put(name, store.get(name)[:-9], dict(store.read(name).metadata))


def delete(store: ObjectStore, name: str) -> None:
    store.delete(name)


each_damage = pytest.mark.parametrize("damage", [zeros, cut, delete])
Damage = Callable[[ObjectStore, str], None]


@each_damage
def test_events_come_back_as_they_were_and_readings_as_what_they_say(
    sinks: Sinks, meshtasks: Command, damage: Damage
) -> None:
    store = sinks[OBJECTS]
    before, lines = contents(store), lines_in(store)
    lost = [named(store, "/home/")[0], named(store, "/sensors/")[0]]
    lost += named(store, "metrics/metrics/")
    for name in lost:
        damage(store, name)

    assert meshtasks(*REPAIR).exit_code == 0

    after = contents(store)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} == {*lost[1:]}
    assert list(map(identity, lines_in(store))) == list(map(identity, lines))
    (reading, *_) = [line for line in lines_in(store) if line["id"].startswith("a0-0/")]
    assert reading["record"]["value"] == 20.0
    assert reading["record"]["unit"] == "°C"
    assert meshtasks("archive", "verify").exit_code == 0


@each_damage
def test_of_a_compacted_day_all_records_come_back(
    sinks: Sinks, meshtasks: Command, damage: Damage
) -> None:
    store = sinks[OBJECTS]
    before, lines = contents(store), lines_in(store)
    compact(sinks)
    for name in named(store, "hour=12"):
        damage(store, name)

    result = meshtasks(*REPAIR)

    assert result.exit_code == 0, result.stdout
    assert contents(store).keys() >= set(named(store, "hour=13"))
    assert {*map(identity, lines_in(store))} == {*map(identity, lines)}
    home = next(name for name in before if "/home/" in name)
    assert contents(store)[home] == before[home]
    compact(sinks)
    assert set(ids_in(store).values()) == {1, len(METRIC["fields"])}


@pytest.mark.parametrize("environment", ["directory", "swift"], indirect=True)
def test_a_second_repair_has_nothing_to_do_and_sound_objects_are_left_alone(
    sinks: Sinks, meshtasks: Command
) -> None:
    store = sinks[OBJECTS]
    compact(sinks)
    for name in named(store, "hour=12"):
        zeros(store, name)
    meshtasks(*REPAIR)
    after = contents(store)

    again = meshtasks(*REPAIR)

    assert again.exit_code == 0
    assert "nothing is left to repair" in again.stdout
    assert contents(store) == after


def test_a_dry_run_says_the_same_and_writes_nothing(
    sinks: Sinks, meshtasks: Command
) -> None:
    store = sinks[OBJECTS]
    lost = named(store, "/home/")[0]
    zeros(store, lost)
    before = contents(store)

    result = meshtasks(*REPAIR, "--dry-run")

    assert f"{lost}: would be restored" in result.stdout
    assert contents(store) == before


def test_what_the_dataset_has_not_either_is_named_and_left(
    sinks: Sinks, meshtasks: Command
) -> None:
    store = sinks[OBJECTS]
    lost = named(store, "/home/")[0]
    zeros(store, lost)
    stem = lost.rpartition("/")[2].removesuffix(".jsonl.zst")
    (file,) = [name for name in parquet_names(store) if stem in name]
    damaged = store.get(file)
    store.delete(file)

    result = meshtasks(*REPAIR)

    assert result.exit_code == 1
    assert f"{lost}: none of its" in result.stdout
    store.put(file, bytes(len(damaged)), {})
    result = meshtasks(*REPAIR)
    assert result.exit_code == 1
    assert f"its rows cannot be had: {file}" in result.stdout
    assert lost in named(store, "/home/")


def test_only_the_period_and_domain_that_are_named_are_repaired(
    sinks: Sinks, meshtasks: Command
) -> None:
    store = sinks[OBJECTS]
    for name in contents(store):
        store.delete(name)

    options = ("--from", "2026-11-23T13:00Z", "--domain", "sensors")
    result = meshtasks(*REPAIR, *options)

    assert result.exit_code == 0, result.stdout
    assert {name.split("/")[1] for name in contents(store)} == {"sensors"}
    assert all("hour=13" in name for name in contents(store))
