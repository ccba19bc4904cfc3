"""What every object store does: a directory and an S3 bucket alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.config.environment import Environment
from meshtasks.errors import ConfigError, SinkRejected
from meshtasks.flows.archive.objects import ObjectInfo, ObjectStore, open_store
from tests.support.archive import bucket_environment, directory_environment
from tests.support.s3 import S3Target

NAME = "events/home/date=2026-11-23/hour=12/20261123T120000Z-0a1b.jsonl.zst"
METADATA = {"count": "2", "sha256": "00ff"}


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    """Names of the objects below a prefix, as the store lists them."""
    return [found.name for found in store.list(prefix)]


class ObjectStoreContract:
    """What the mesh relies on in any store."""

    @pytest.mark.parametrize("data", [b"", b"some bytes \x00\xff", os.urandom(1 << 20)])
    def test_an_object_comes_back_as_it_was_put(
        self, store: ObjectStore, data: bytes
    ) -> None:
        store.put(NAME, data, METADATA)
        assert store.get(NAME) == data

    def test_a_stored_object_is_known_with_its_size(self, store: ObjectStore) -> None:
        store.put(NAME, b"12345", METADATA)
        assert store.stat(NAME) == ObjectInfo(NAME, 5)

    @pytest.mark.parametrize(
        "missing", [NAME, "events", "events/home", f"{NAME}/below"]
    )
    def test_an_object_nobody_put_is_not_there(
        self, store: ObjectStore, missing: str
    ) -> None:
        store.put("events/home/other", b"other", METADATA)

        assert store.stat(missing) is None
        with pytest.raises(SinkRejected, match="there is no object"):
            store.get(missing)

    def test_putting_an_object_again_replaces_it(self, store: ObjectStore) -> None:
        store.put(NAME, b"first, and longer", METADATA)
        store.put(NAME, b"second", METADATA)

        assert store.get(NAME) == b"second"
        assert names(store) == [NAME]

    def test_a_deleted_object_is_gone_and_its_neighbours_are_not(
        self, store: ObjectStore
    ) -> None:
        store.put(NAME, b"gone", METADATA)
        store.put("events/home/other", b"other", METADATA)

        store.delete(NAME)

        assert store.stat(NAME) is None
        assert names(store) == ["events/home/other"]

    @pytest.mark.parametrize("missing", [NAME, f"{NAME}/below"])
    def test_deleting_what_is_not_there_does_nothing(
        self, store: ObjectStore, missing: str
    ) -> None:
        store.put("events/home/other", b"other", METADATA)
        store.delete(missing)
        assert names(store) == ["events/home/other"]

    def test_objects_are_listed_by_prefix_in_order_of_their_names(
        self, store: ObjectStore
    ) -> None:
        stored = ["a-b/1", "a.b", "a/b/2", "a/b/10", "a/c", "ab", "b/1"]
        for name in reversed(stored):
            store.put(name, b"x" * len(name), {})

        assert list(store.list("")) == [
            ObjectInfo(name, len(name)) for name in sorted(stored)
        ]
        assert names(store, "a/") == ["a/b/10", "a/b/2", "a/c"]
        assert names(store, "a/b") == ["a/b/10", "a/b/2"]
        assert names(store, "a/b/1") == ["a/b/10"]
        assert names(store, "a") == ["a-b/1", "a.b", "a/b/10", "a/b/2", "a/c", "ab"]

    def test_an_empty_store_lists_nothing(self, store: ObjectStore) -> None:
        assert names(store, "events/home/") == []

    @pytest.mark.parametrize(
        "name",
        ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "é" * 128, "a/" * 512 + "a"],
    )
    def test_a_name_that_not_every_store_could_keep_is_refused(
        self, store: ObjectStore, name: str
    ) -> None:
        with pytest.raises(SinkRejected, match="object name"):
            store.put(name, b"", {})

    def test_putting_one_object_many_times_at_once_leaves_one_whole_object(
        self, store: ObjectStore
    ) -> None:
        contents = [bytes([letter]) * 200_000 for letter in b"abcd"]
        threads = [
            threading.Thread(target=store.put, args=(NAME, content, {}))
            for content in contents
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert store.get(NAME) in contents
        assert names(store) == [NAME]

    def test_a_working_store_answers_its_probe_and_is_no_different_for_it(
        self, store: ObjectStore
    ) -> None:
        store.probe()
        assert names(store) == []


class TestDirectory(ObjectStoreContract):
    """The contract, kept by a directory."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        """An empty directory."""
        with closing(open_store(directory_environment(tmp_path))) as it:
            yield it


class TestBucket(ObjectStoreContract):
    """The contract, kept by a bucket."""

    @pytest.fixture
    def store(self, s3: S3Target, tmp_path: Path) -> Iterator[ObjectStore]:
        """An empty bucket."""
        with closing(open_store(bucket_environment(s3, tmp_path))) as it:
            yield it


@pytest.mark.parametrize(
    ("fault", "variable"),
    [
        ({"archive_url": "/var/lib/archive"}, "MESH_ARCHIVE_URL"),
        ({"archive_url": "file://"}, "MESH_ARCHIVE_URL"),
        ({"archive_url": "ftp://host/archive"}, "MESH_ARCHIVE_URL"),
        ({"archive_url": "s3://bucket/prefix"}, "MESH_ARCHIVE_URL"),
        ({"archive_url": "s3://My_Bucket"}, "MESH_ARCHIVE_URL"),
        ({"minio_endpoint": "http://127.0.0.1:9000"}, "MESH_MINIO_ENDPOINT"),
        ({"minio_endpoint": "127.0.0.1:port"}, "MESH_MINIO_ENDPOINT"),
        ({"minio_access_key": ""}, "MESH_MINIO_ACCESS_KEY"),
        ({"minio_secret_key": ""}, "MESH_MINIO_SECRET_KEY"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(
    fault: dict[str, str], variable: str
) -> None:
    fine = {
        "archive_url": "s3://archive",
        "minio_access_key": "mesh",
        "minio_secret_key": "secret",
    }
    with pytest.raises(ConfigError) as it:
        open_store(Environment.model_validate(fine | fault))
    assert it.value.key == variable
