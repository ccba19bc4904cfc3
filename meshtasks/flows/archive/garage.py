"""Prepares Garage for the archive: layout, key and bucket, by its administration API.

Version 2 of the API: https://garagehq.deuxfleurs.fr/api/garage-admin-v2.html
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from urllib3.exceptions import HTTPError

from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.flows.archive.objects import SINK
from meshtasks.http import Answer, pool_manager, request

#: Name of the key in Garage. Any other key of the bucket with this name is deleted.
KEY_NAME = "meshtasks"

_ZONE = "home"
_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 0.5
#: Garage accepts only keys of the form that it generates.
_KEY_ID = re.compile(r"GK[0-9a-f]{24}")
_KEY_SECRET = re.compile(r"[0-9a-f]{64}")
_ANEW = "remove both lines of MESH_MINIO_… from .env and run `meshtasks secrets`"
#: Capacity of the node in a layout if Garage does not report the size of its disk.
#: Nothing is reserved.
_CAPACITY_BYTES = 10**12


class Garage:
    """A Garage server that the mesh prepares at its first start.

    Args:
        url: URL of the administration API.
        token: administration token.
        patience_seconds: how long to wait for a server that is unavailable or starting.
    """

    def __init__(self, url: str, token: str, patience_seconds: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }
        self._deadline = time.monotonic() + patience_seconds
        self._pool = pool_manager()

    def prepare(self, bucket: str, key_id: str, key_secret: str) -> list[str]:
        """Create layout, key and bucket if they are missing; return what was created.

        A cluster of several nodes keeps its layout.

        Args:
            bucket: name of the bucket.
            key_id: id of the key, which may read and write this bucket and no other.
            key_secret: secret of the key.

        Raises:
            ConfigError: token or key cannot be used, or the cluster has several nodes
                and no layout.
            SinkUnavailable: the server did not respond in time, or not as Garage does.
        """
        if not (_KEY_ID.fullmatch(key_id) and _KEY_SECRET.fullmatch(key_secret)):
            expected = (
                "with the secret in MESH_MINIO_SECRET_KEY, expected a key as Garage "
                f"makes them: GK and 24 hexadecimal digits, secret of 64; {_ANEW}"
            )
            raise ConfigError("environment", "MESH_MINIO_ACCESS_KEY", expected)
        try:
            return [
                *self._make_layout(),
                *self._make_key(key_id, key_secret),
                *self._make_bucket(bucket, key_id),
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise self._unavailable("the answer is not Garage's") from error

    def _make_layout(self) -> list[str]:
        status = self._call("GET", "GetClusterStatus")
        nodes = status["nodes"]
        if any(node.get("role") for node in nodes):
            return []
        if len(nodes) != 1:
            expected = f"expected a layout for its {len(nodes)} nodes: `garage layout`"
            raise ConfigError("Garage", self._url, expected)
        disk = nodes[0].get("dataPartition") or {}
        role = {
            "id": nodes[0]["id"],
            "zone": _ZONE,
            "capacity": disk.get("total") or _CAPACITY_BYTES,
            "tags": [],
        }
        self._call("POST", "UpdateClusterLayout", body={"roles": [role]})
        version = status["layoutVersion"] + 1
        self._call("POST", "ApplyClusterLayout", body={"version": version})
        return ["layout of one node"]

    def _make_key(self, key_id: str, key_secret: str) -> list[str]:
        query = {"id": key_id, "showSecretKey": "true"}
        known = self._call("GET", "GetKeyInfo", query, missing="NoSuchAccessKey")
        if known is None:
            key = {
                "accessKeyId": key_id,
                "secretAccessKey": key_secret,
                "name": KEY_NAME,
            }
            if self._call("POST", "ImportKey", body=key, missing="KeyAlreadyExists"):
                return [f"key {key_id}"]
            fault = "was deleted in Garage, which takes no key of that id again"
        elif known["secretAccessKey"] == key_secret:
            return []
        else:
            fault = "has another secret in Garage"
        expected = f"{key_id} {fault}; {_ANEW}"
        raise ConfigError("environment", "MESH_MINIO_ACCESS_KEY", expected)

    def _make_bucket(self, bucket: str, key_id: str) -> list[str]:
        made = []
        name = {"globalAlias": bucket}
        found = self._call("GET", "GetBucketInfo", name, missing="NoSuchBucket")
        if found is None:
            found = self._call("POST", "CreateBucket", body=name)
            made.append(f"bucket {bucket}")
        permissions = {"read": True, "write": True, "owner": False}
        grant = {
            "bucketId": found["id"],
            "accessKeyId": key_id,
            "permissions": permissions,
        }
        self._call("POST", "AllowBucketKey", body=grant)
        for key in found["keys"]:
            old = key["accessKeyId"]
            if key["name"] == KEY_NAME and old != key_id:
                self._call("POST", "DeleteKey", {"id": old})
                made.append(f"key {key_id} in the place of {old}, which is deleted")
        return made

    def _call(
        self,
        method: str,
        operation: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        missing: str | None = None,
    ) -> Any:
        """Return the response's JSON; None for an error with the code ``missing``.

        Requests are repeated until the deadline while the server is unavailable or has
        not applied its layout.
        """
        url = f"{self._url}/v2/{operation}?{urlencode(query or {})}"
        data = None if body is None else json.dumps(body).encode()
        while True:
            try:
                answer = request(
                    self._pool,
                    method,
                    url,
                    timeout_seconds=_ANSWER_SECONDS,
                    body=data,
                    headers=self._headers,
                )
            except HTTPError as error:
                fault = f"{operation}: {type(error).__name__}: {error}"
            else:
                if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return self._content(operation, answer, missing)
                fault = f"{operation}: status {answer.status}: {answer.text[:200]}"
            if time.monotonic() > self._deadline:
                raise self._unavailable(fault)
            time.sleep(_RETRY_SECONDS)

    def _content(self, operation: str, answer: Answer, missing: str | None) -> Any:
        try:
            content = json.loads(answer.body) if answer.body.strip() else None
        except ValueError as error:
            raise self._unavailable("the answer is not Garage's") from error
        if answer.status == HTTPStatus.OK:
            return content
        if answer.status == HTTPStatus.FORBIDDEN:
            expected = "expected the token of Garage's [admin] section"
            raise ConfigError("environment", "MESH_GARAGE_ADMIN_TOKEN", expected)
        code = content.get("code") if isinstance(content, dict) else None
        if missing is not None and code == missing:
            return None
        fault = f"{operation}: {code}: {answer.text[:200]}"
        raise self._unavailable(fault)

    def _unavailable(self, fault: str) -> SinkUnavailable:
        message = f"Garage at {self._url}: {fault}"
        return SinkUnavailable(SINK, message)
