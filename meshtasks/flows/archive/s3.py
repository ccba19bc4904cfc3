"""Store of objects in a bucket of MinIO or any other S3 service."""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Self
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.helpers import check_bucket_name
from typing_extensions import override

from meshtasks.config.urls import HIGHEST_PORT
from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.archive.objects import (
    SINK,
    ObjectInfo,
    ObjectStore,
    StoredObject,
    check_name,
    no_such_object,
)
from meshtasks.http import pool_manager, retry_after_seconds
from meshtasks.text import masked
from meshtasks.timing import timing

#: minio-py's defaults are five minutes each, and six attempts.
_TIMEOUT = urllib3.Timeout(connect=3.0, read=10.0)
_PROBE_TIMEOUT = urllib3.Timeout(connect=3.0, read=5.0)


# One immediate retry, because a kept connection may have been closed. Longer failures,
# and the wait after them, are handled by the circuit.
class _Retry(urllib3.Retry):
    @override
    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Self:
        """Allow one more attempt, unless the server exceeded the time limit."""
        if isinstance(error, urllib3.exceptions.TimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


_RETRY = _Retry(
    connect=1, read=1, redirect=0, status=0, other=0, respect_retry_after_header=False
)
#: Maximum number of open connections; a reader fetches several objects at once.
_CONNECTIONS = 8
#: Objects up to this size are sent in one request, and stored whole or not at all.
#: Larger ones are sent in parts; after a crash, some parts may stay until the bucket's
#: lifecycle rules delete them.
_PART_BYTES = 64 << 20

#: Error codes that concern one object. All others (there are many, and each server has
#: its own) come from the configuration or from a temporary state. They pause the queue,
#: and their message is shown, until the cause is removed.
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
#: Matches the codes and messages of servers whose disk or quota is full. Each server
#: has its own: XMinioStorageFull, XMinioAdminBucketQuotaExceeded, Ceph's QuotaExceeded,
#: and Garage's AccessDenied with "Bucket size quota is reached".
_FULL = re.compile(r"quota|storage ?full|insufficient ?storage|no space", re.IGNORECASE)
#: Name of the object that tests whether there is room again.
_ROOM = "room/probe"
_CHECK_DELETE = (
    "this key may not delete: compaction and `meshtasks doctor` need s3:DeleteObject, "
    "archiving does not; nothing is lost, replaced files stay where they are"
)
#: Response of Go's servers, MinIO's too, to plain HTTP on a port with TLS.
_WANTS_TLS = "HTTP request to an HTTPS server"
_SPEAKS_TLS = "the server uses TLS: set MESH_MINIO_SECURE=true"
#: Host and port; an IPv6 address is in brackets.
_ENDPOINT = re.compile(
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?"
)
_USER_METADATA = "x-amz-meta-"
_ANY_TYPE = "application/octet-stream"
_CONTENT_TYPES = {
    ".zst": "application/zstd",
    ".parquet": "application/vnd.apache.parquet",
}
_CHECK_KEYS = "check MESH_MINIO_ACCESS_KEY and MESH_MINIO_SECRET_KEY"
_CHECK_SERVICE = "is MESH_MINIO_ENDPOINT an S3 service?"
_CHECK_REGION = "set MESH_MINIO_REGION to the region of the bucket"
_WHAT_TO_DO = {
    "AccessDenied": (
        f"{_CHECK_KEYS}, and that this key has s3:ListBucket of the bucket, "
        "s3:GetObject and s3:PutObject of what is in it"
    ),
    "AuthorizationHeaderMalformed": _CHECK_REGION,
    "InvalidAccessKeyId": _CHECK_KEYS,
    "PermanentRedirect": _CHECK_REGION,
    "SignatureDoesNotMatch": _CHECK_KEYS,
    "NoSuchBucket": "create the bucket, or correct MESH_ARCHIVE_URL",
    "RequestTimeTooSkewed": "set this machine's clock, or the server's",
}


class S3Store(ObjectStore):
    """Objects of one bucket.

    The bucket must exist. If it were created, a mistyped name would split the archive,
    and a key that may only write objects could not create it.

    Args:
        endpoint: ``host:port`` of the service.
        access_key: id of the key that signs requests.
        secure: whether to use TLS.
        region: region of the bucket. Without it, minio-py would request it, which not
            every key may do.

    Raises:
        ConfigError: an argument is invalid; names its variable.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str,
        access_key: str,
        secret_key: str,
        secure: bool,
        region: str = "us-east-1",
    ) -> None:
        if not access_key or not secret_key:
            missing = "SECRET" if access_key else "ACCESS"
            variable = f"MESH_MINIO_{missing}_KEY"
            expected = "the key for the bucket of MESH_ARCHIVE_URL; it is not set"
            raise ConfigError("environment", variable, expected)
        _check_address(endpoint, bucket)
        self._bucket = bucket
        #: Size of an object for which there was no room; see FileStore.
        self._lacking_bytes = 0
        self._endpoint = endpoint
        self._secure = secure
        self._http = pool_manager(
            maxsize=_CONNECTIONS, timeout=_TIMEOUT, retries=_RETRY
        )
        self._probe_http = pool_manager(
            maxsize=1, timeout=_PROBE_TIMEOUT, retries=_RETRY
        )
        client = partial(
            Minio,
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            secure=secure,
            region=region,
        )
        try:
            self._client = client(http_client=self._http)
            self._probe_client = client(http_client=self._probe_http)
        except ValueError as error:
            expected = f"host:port, not {endpoint!r} ({error})"
            raise ConfigError("environment", "MESH_MINIO_ENDPOINT", expected) from error

    @override
    @timing(SINK)
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        check_name(name)
        self._require_room()
        with self._faults(name):
            try:
                etag = self._put(name, data, metadata)
            except S3Error as error:
                if _has_no_room(error):
                    self._lacking_bytes = len(data)
                raise
        self._require_tag(etag)

    def _put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> str | None:
        stored = self._client.put_object(
            self._bucket,
            name,
            io.BytesIO(data),
            len(data),
            content_type=_CONTENT_TYPES.get(PurePosixPath(name).suffix, _ANY_TYPE),
            metadata=dict(metadata),
            part_size=_PART_BYTES,
        )
        return stored.etag

    def _require_room(self) -> None:
        """Store and delete a temporary object of the size for which there was no room.

        Raises:
            SinkUnavailable: there is still no room for it.
        """
        if not self._lacking_bytes:
            return
        with self._faults(_ROOM):
            self._put(_ROOM, secrets.token_bytes(self._lacking_bytes), {})
            with suppress(S3Error):  # the key may not have the right to delete
                self._client.remove_object(self._bucket, _ROOM)
        self._lacking_bytes = 0

    @override
    def stat(self, name: str) -> ObjectInfo | None:
        check_name(name)
        with self._faults(name):
            try:
                found = self._client.stat_object(self._bucket, name)
            except S3Error as error:
                if error.code != "NoSuchKey":
                    raise
                self.probe()  # if the bucket is missing, the object may still exist
                return None
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
            try:
                self._client.remove_object(self._bucket, name)
            except S3Error as error:
                if error.code == "AccessDenied":
                    raise self._unavailable(error.code, _CHECK_DELETE) from error
                raise

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
            exists = self._probe_client.bucket_exists(self._bucket)
        if not exists:
            raise self._unavailable("NoSuchBucket", _WHAT_TO_DO["NoSuchBucket"])
        self._require_room()

    @override
    def close(self) -> None:
        self._http.clear()
        self._probe_http.clear()

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
            advice = error.message or "no further text"
            if not _says_full(error):
                advice = _WHAT_TO_DO.get(code, advice)
            raise self._unavailable(code, advice, wait) from error
        except (InvalidResponseError, ParseError, ValueError) as error:
            text = f"the answer is not S3's: {masked(str(error))[:200]}"
            advice = _SPEAKS_TLS if _WANTS_TLS in str(error) else _CHECK_SERVICE
            raise self._unavailable(text, advice) from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            raise self._unavailable(text, self._advice_on(text)) from error

    def _advice_on(self, fault: str) -> str:
        """Return what to do about a failed connection. Never advise to turn TLS off if
        the server is unavailable or its certificate is not trusted."""
        if "CERTIFICATE_VERIFY_FAILED" in fault or "CertificateError" in fault:
            return "name the CA's certificate in MESH_CA_FILE; it must be for this host"
        if self._secure and (
            "WRONG_VERSION_NUMBER" in fault or "RECORD_LAYER" in fault
        ):
            return "MESH_MINIO_SECURE is true, but the server uses no TLS"
        return "is it running and reachable at MESH_MINIO_ENDPOINT?"

    def _require_tag(self, etag: str | None) -> None:
        """Check that the response has an ETag. S3 sends one with every object; a login
        page or a proxy's page has none.

        Raises:
            SinkUnavailable: it has none.
        """
        if not etag:
            raise self._unavailable("the answer is not S3's: no ETag", _CHECK_SERVICE)

    def _unavailable(
        self, fault: str, advice: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"S3 at {self._endpoint}, bucket {self._bucket!r}: {fault} ({advice})"
        return SinkUnavailable(SINK, message, retry_after_seconds)


def _check_address(endpoint: str, bucket: str) -> None:
    """Check the form of an endpoint and the name of a bucket.

    Raises:
        ConfigError: one of them is invalid; names its variable.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if not found or not 0 < int(found["port"] or 9000) <= HIGHEST_PORT:
        expected = (
            f"host:port, not {endpoint!r}; http:// or https:// is what "
            "MESH_MINIO_SECURE says"
        )
        raise ConfigError("environment", "MESH_MINIO_ENDPOINT", expected)
    try:
        check_bucket_name(bucket, strict=True)
    except ValueError as error:
        expected = f"s3:// and the name of a bucket alone ({error})"
        raise ConfigError("environment", "MESH_ARCHIVE_URL", expected) from error


def _has_no_room(error: S3Error) -> bool:
    """Whether the disk may be full. Some servers say so; SeaweedFS responds 500."""
    status: int = error.response.status
    return status in {500, 507} or _says_full(error)


def _says_full(error: S3Error) -> bool:
    return _FULL.search(f"{error.code} {error.message}") is not None
