"""The object store that holds the archive: a directory or an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from meshtasks.errors import ConfigError
from meshtasks.flows.archive.objects.file import FileStore
from meshtasks.flows.archive.objects.store import ObjectInfo, ObjectStore
from meshtasks.flows.excerpts import ArchiveClass

if TYPE_CHECKING:
    from meshtasks.config.environment import Environment

__all__ = ["ObjectInfo", "ObjectStore", "archived_objects", "open_store"]


def open_store(env: Environment) -> ObjectStore:
    """The store that ``MESH_ARCHIVE_URL`` names; nothing is contacted yet.

    ``s3://bucket`` is a bucket of the service at ``MESH_MINIO_ENDPOINT``;
    ``file:///directory`` a directory, which is made when it is needed
    (``file://directory`` is taken relative to the working directory).

    Raises:
        ConfigError: naming the variable and what was expected.
    """
    scheme, _, place = env.archive_url.partition("://")
    if scheme == "file" and place:
        return FileStore(place)
    if scheme == "s3" and place:
        from meshtasks.flows.archive.objects.s3 import S3Store  # noqa: PLC0415 - loads minio

        return S3Store(
            place,
            endpoint=env.minio_endpoint,
            access_key=env.minio_access_key.get_secret_value(),
            secret_key=env.minio_secret_key.get_secret_value(),
            secure=env.minio_secure,
            region=env.minio_region,
        )
    expected = f"s3://bucket or file:///directory, not {env.archive_url!r}"
    raise ConfigError("environment", "MESH_ARCHIVE_URL", expected)


def archived_objects(store: ObjectStore) -> Iterator[ObjectInfo]:
    """The objects of the archive; the store holds others too, made from them.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    for archive_class in get_args(ArchiveClass):
        yield from store.list(f"{archive_class}/")
