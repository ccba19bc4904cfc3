"""Objects in a bucket of MinIO or any other S3 service."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.helpers import check_bucket_name
from typing_extensions import override

from meshtasks.domain.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.sinks.http import pool_manager, retry_after_seconds
from meshtasks.sinks.objects.store import (
    SINK,
    ObjectInfo,
    ObjectStore,
    StoredObject,
    check_name,
    no_such_object,
)
from meshtasks.sinks.timing import timed

#: minio-py would wait five minutes for either, and try six times.
_TIMEOUT = urllib3.Timeout(connect=3.0, read=20.0)
#: Once more at once, since a kept connection may have been closed meanwhile. What
#: is wrong for longer, and how long to wait then, is the circuit's business.
_RETRY = urllib3.Retry(
    connect=1, read=1, redirect=0, status=0, other=0, respect_retry_after_header=False
)
#: Kept open at most: a reader fetches several objects at once.
_CONNECTIONS = 8
#: One request up to here, so that it is stored whole or not at all. A larger object
#: goes in parts, and a crash may leave some of them to the bucket's lifecycle rules.
_PART_BYTES = 64 << 20

#: Error codes that are about one object. All others (and there are many, each server
#: has its own) come from the set-up or the moment: they hold the queue up, with their
#: text, until somebody puts it right.
_OBJECT_FAULTS = frozenset(
    {
        "EntityTooLarge",
        "KeyTooLongError",
        "MetadataTooLarge",
        "XMinioInvalidObjectName",
        "XMinioObjectExistsAsDirectory",
        "XMinioParentIsObject",
    }
)
_USER_METADATA = "x-amz-meta-"
_CONTENT_TYPES = {
    ".zst": "application/zstd",
    ".parquet": "application/vnd.apache.parquet",
}
_CHECK_KEYS = (
    "check MESH_MINIO_ACCESS_KEY and MESH_MINIO_SECRET_KEY, and that this key may "
    "read, write and list in the bucket"
)
_CHECK_SERVICE = "is MESH_MINIO_ENDPOINT an S3 service, and MESH_MINIO_SECURE right?"
_WHAT_TO_DO = {
    "AccessDenied": _CHECK_KEYS,
    "InvalidAccessKeyId": _CHECK_KEYS,
    "SignatureDoesNotMatch": _CHECK_KEYS,
    "NoSuchBucket": "create the bucket, or correct MESH_ARCHIVE_URL",
    "RequestTimeTooSkewed": "set this machine's clock, or the server's",
}


class S3Store(ObjectStore):
    """Objects of one bucket.

    The bucket must exist: to make one for a mistyped name would split the archive,
    and a key that may only write objects could not.

    Args:
        bucket: its name.
        endpoint: ``host:port`` of the service.
        access_key: names the key to sign with.
        secret_key: the key.
        secure: speak TLS.

    Raises:
        ConfigError: an argument cannot be right; names its variable.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str,
        access_key: str,
        secret_key: str,
        secure: bool,
    ) -> None:
        if not access_key or not secret_key:
            missing = "SECRET" if access_key else "ACCESS"
            variable = f"MESH_MINIO_{missing}_KEY"
            expected = "the key for the bucket of MESH_ARCHIVE_URL; it is not set"
            raise ConfigError("environment", variable, expected)
        self._bucket = bucket
        self._endpoint = endpoint
        self._http = pool_manager(
            maxsize=_CONNECTIONS, timeout=_TIMEOUT, retries=_RETRY
        )
        try:
            check_bucket_name(bucket, strict=True)
        except ValueError as error:
            expected = f"s3:// and the name of a bucket alone ({error})"
            raise ConfigError("environment", "MESH_ARCHIVE_URL", expected) from error
        try:
            self._client = Minio(
                endpoint,
                access_key=access_key,
                secret_key=secret_key,
                secure=secure,
                http_client=self._http,
            )
        except ValueError as error:
            expected = f"host:port, not {endpoint!r} ({error})"
            raise ConfigError("environment", "MESH_MINIO_ENDPOINT", expected) from error

    @override
    @timed(SINK)
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        check_name(name)
        with self._faults(name):
            stored = self._client.put_object(
                self._bucket,
                name,
                io.BytesIO(data),
                len(data),
                content_type=_content_type(name),
                metadata=dict(metadata),
                part_size=_PART_BYTES,
            )
        self._require_tag(stored.etag)

    @override
    def stat(self, name: str) -> ObjectInfo | None:
        check_name(name)
        with self._faults(name):
            try:
                found = self._client.stat_object(self._bucket, name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
        self._require_tag(found.etag)
        return ObjectInfo(name, found.size or 0)

    @override
    def read(self, name: str) -> StoredObject:
        check_name(name)
        with self._faults(name):
            try:
                response = self._client.get_object(self._bucket, name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    raise no_such_object(name) from error
                raise
            try:
                self._require_tag(response.headers.get("ETag"))
                data = response.read()
            finally:
                response.close()
                response.release_conn()
        metadata = {
            key.lower().removeprefix(_USER_METADATA): value
            for key, value in response.headers.items()
            if key.lower().startswith(_USER_METADATA)
        }
        return StoredObject(data, metadata)

    @override
    def delete(self, name: str) -> None:
        check_name(name)
        with self._faults(name):
            self._client.remove_object(self._bucket, name)

    @override
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._faults(prefix):
            for found in self._client.list_objects(
                self._bucket, prefix=prefix, recursive=True
            ):
                yield ObjectInfo(found.object_name or "", found.size or 0)

    @override
    def probe(self) -> None:
        with self._faults(""):
            exists = self._client.bucket_exists(self._bucket)
        if not exists:
            raise self._unavailable("NoSuchBucket", _WHAT_TO_DO["NoSuchBucket"])

    @override
    def close(self) -> None:
        self._http.clear()

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            code = error.code or f"status {error.response.status}"
            if code in _OBJECT_FAULTS:
                message = f"object {name!r}: refused by S3: {code}: {error.message}"
                raise SinkRejected(message) from error
            wait = retry_after_seconds(error.response.headers.get("Retry-After"))
            advice = _WHAT_TO_DO.get(code) or error.message or "no further text"
            raise self._unavailable(code, advice, wait) from error
        except (InvalidResponseError, ParseError, ValueError) as error:
            text = f"the answer is not S3's: {str(error)[:200]}"
            raise self._unavailable(text, _CHECK_SERVICE) from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            raise self._unavailable(text, _CHECK_SERVICE) from error

    def _require_tag(self, etag: str | None) -> None:
        """S3 gives every object a tag; a page that stands in its place has none.

        Raises:
            SinkUnavailable: there is none.
        """
        if not etag:
            raise self._unavailable("the answer is not S3's: no ETag", _CHECK_SERVICE)

    def _unavailable(
        self, fault: str, advice: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"S3 at {self._endpoint}, bucket {self._bucket!r}: {fault} ({advice})"
        return SinkUnavailable(SINK, message, retry_after_seconds)


def _content_type(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return _CONTENT_TYPES.get(suffix, "application/octet-stream")
