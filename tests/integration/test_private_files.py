"""What is kept on disk is its owner's alone, whatever the umask."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.cli.secrets import secrets
from meshtasks.config.private_files import private_opener, replace_private
from meshtasks.flows.analytics.dataset import DatasetLock, LocalFiles
from meshtasks.flows.archive.objects import FileStore
from meshtasks.producers.homeassistant.publishing import KnownStates
from meshtasks.producers.spool import SpoolFile
from meshtasks.state.archive_journal import ArchiveJournal
from meshtasks.state.database import Database, StateLocation

ROOT = Path(__file__).parents[2]
NAME = "analytics/year=2026/a.parquet"


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    return [
        f"{path.relative_to(directory)} {stat.filemode(path.stat().st_mode)}"
        for path in sorted(directory.rglob("*"))
        if path.stat().st_mode & 0o077
    ]


def test_all_that_is_written_is_the_owners_alone(tmp_path: Path) -> None:
    state = tmp_path / "mesh" / "state"
    store = FileStore(tmp_path / "archive")
    store.probe()
    store.put(NAME, b"data", {})
    LocalFiles(store, state / "cache").paths([NAME])
    with DatasetLock(state / "locks").reading():
        pass
    memory = KnownStates(state / "house" / "memory.json")
    memory.heard_at = 1.0
    memory.save()
    replace_private(state / "report.json", "{}")
    with (
        closing(ArchiveJournal(StateLocation.in_directory(state))) as journal,
        closing(SpoolFile(state / "spool" / "x.spool")),
    ):
        journal.probe()
        with journal.hold(), journal.claim(["a"]) as claim:
            claim.intend({"one": ["a"]})
        assert (state / "mesh.db-wal").exists()
        assert open_to_others(tmp_path) == []


def test_what_was_open_to_others_is_not_once_it_is_used(tmp_path: Path) -> None:
    location = StateLocation.in_directory(tmp_path / "state")
    location.path.parent.mkdir()
    Database("test", location, "old.sqlite").probe()
    root = tmp_path / "archive"
    (root / "analytics" / "year=2026").mkdir(parents=True)
    location.path.chmod(0o664)

    Database("test", location, "old.sqlite").probe()
    FileStore(root).put(NAME, b"data", {})

    # A directory that was there before may be shared with something else.
    assert open_to_others(tmp_path) == ["archive drwxrwxrwx", "state drwxrwxrwx"]


def test_a_device_keeps_its_rights() -> None:
    before = Path(os.devnull).stat().st_mode

    with open(os.devnull, "wb", opener=private_opener):
        pass

    assert Path(os.devnull).stat().st_mode == before


def test_the_brokers_container_reads_its_accounts_and_nobody_else(
    tmp_path: Path,
) -> None:
    os.umask(0o077)
    definitions = tmp_path / "compose" / "rabbitmq.json"

    secrets(env_file=tmp_path / ".env", definitions=definitions)

    assert stat.S_IMODE(definitions.stat().st_mode) == 0o644
    assert stat.S_IMODE(definitions.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_what_containers_mount_is_readable_to_them_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = shutil.copytree(ROOT / "config", tmp_path / "config")
    for path in (config, *config.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    before = os.umask(0o077)
    try:
        secrets(Path(".env"), Path(".mesh/compose/rabbitmq.json"))
    finally:
        os.umask(before)

    hidden = [
        path
        for path in (config, *config.rglob("*"), Path(".mesh/compose/rabbitmq.json"))
        if not path.stat().st_mode & stat.S_IROTH
    ]
    assert hidden == []
