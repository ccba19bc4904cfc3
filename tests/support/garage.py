"""A stand-in for Garage's administration API, version 2, and for its S3.

Requests and answers have the form of its OpenAPI document
(https://garagehq.deuxfleurs.fr/api/garage-admin-v2.html): a field that it does not know
or misses is an error here. It is no Garage: nothing is stored, and its S3 only tells
whether a key may use a bucket.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.httpserver import Handler, HTTPServer

#: Required fields of what an operation takes, and those it takes besides.
_BODIES: dict[str, tuple[set[str], set[str]]] = {
    "UpdateClusterLayout": (set(), {"roles", "parameters"}),
    "ApplyClusterLayout": ({"version"}, set()),
    "ImportKey": ({"accessKeyId", "secretAccessKey"}, {"name"}),
    "CreateBucket": (set(), {"globalAlias", "localAlias"}),
    "AllowBucketKey": ({"bucketId", "accessKeyId", "permissions"}, set()),
}
_CREDENTIAL = re.compile(r"Credential=([^/]+)/")


class GarageError(Exception):
    """An answer that is none of success."""

    def __init__(self, status: HTTPStatus, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class StandInGarage(HTTPServer):
    """One node on loopback; its S3 answers at the same port.

    Attributes:
        nodes: ids of the nodes, one unless a test adds to them.
        roles: of the layout that is applied, by node.
        keys: secret and name by id; None if it was deleted.
        buckets: id by name.
        allowed: permissions by bucket's id and key's id.
        operations: those that were asked for, in order.
        busy: how many requests are refused first, as while a layout is taken in.
    """

    def __init__(self, token: str) -> None:
        super().__init__(_Handler)
        self.token = token
        self.nodes = [secrets.token_hex(32)]
        self.layout_version = 0
        self.staged: dict[str, Any] = {}
        self.roles: dict[str, Any] = {}
        self.keys: dict[str, tuple[str, str] | None] = {}
        self.buckets: dict[str, str] = {}
        self.allowed: dict[tuple[str, str], dict[str, bool]] = {}
        self.operations: list[str] = []
        self.busy = 0

    def serve(self, operation: str, query: dict[str, str], body: Any) -> Any:
        """The answer to an operation."""
        self.operations.append(operation)
        if self.busy:
            self.busy -= 1
            raise GarageError(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable")
        if operation in _BODIES:
            required, optional = _BODIES[operation]
            if not required <= set(body) <= required | optional:
                raise GarageError(HTTPStatus.BAD_REQUEST, "InvalidRequest")
        serve: Callable[[dict[str, str], Any], Any] = getattr(self, f"_{operation}")
        return serve(query, body)

    def _GetClusterStatus(self, _query: dict[str, str], _body: Any) -> Any:  # noqa: N802
        return {
            "layoutVersion": self.layout_version,
            "nodes": [
                {
                    "id": node,
                    "isUp": True,
                    "draining": False,
                    "role": self.roles.get(node),
                    "dataPartition": {"available": 2**39, "total": 2**40},
                }
                for node in self.nodes
            ],
        }

    def _UpdateClusterLayout(self, _query: dict[str, str], body: Any) -> Any:  # noqa: N802
        for role in body["roles"]:
            if set(role) != {"id", "zone", "capacity", "tags"}:
                raise GarageError(HTTPStatus.BAD_REQUEST, "InvalidRequest")
            self.staged[role["id"]] = {
                name: value for name, value in role.items() if name != "id"
            }
        return {}

    def _ApplyClusterLayout(self, _query: dict[str, str], body: Any) -> Any:  # noqa: N802
        if body["version"] != self.layout_version + 1:
            raise GarageError(HTTPStatus.BAD_REQUEST, "InvalidRequest")
        self.layout_version += 1
        self.roles, self.staged = {**self.roles, **self.staged}, {}
        return {"message": ["applied"], "layout": {}}

    def _GetKeyInfo(self, query: dict[str, str], _body: Any) -> Any:  # noqa: N802
        key = self.keys.get(query["id"])
        if key is None:
            raise GarageError(HTTPStatus.NOT_FOUND, "NoSuchAccessKey")
        shown = {"secretAccessKey": key[0]} if query.get("showSecretKey") else {}
        return {"accessKeyId": query["id"], "name": key[1], "buckets": [], **shown}

    def _ImportKey(self, _query: dict[str, str], body: Any) -> Any:  # noqa: N802
        if body["accessKeyId"] in self.keys:
            raise GarageError(HTTPStatus.CONFLICT, "KeyAlreadyExists")
        name = body.get("name") or "Imported key"
        self.keys[body["accessKeyId"]] = (body["secretAccessKey"], name)
        return {"accessKeyId": body["accessKeyId"], "name": name, "buckets": []}

    def _DeleteKey(self, query: dict[str, str], _body: Any) -> Any:  # noqa: N802
        self.keys[query["id"]] = None
        return None

    def _CreateBucket(self, _query: dict[str, str], body: Any) -> Any:  # noqa: N802
        if not self.roles:
            raise GarageError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError")
        self.buckets[body["globalAlias"]] = secrets.token_hex(32)
        return self._bucket(body["globalAlias"])

    def _GetBucketInfo(self, query: dict[str, str], _body: Any) -> Any:  # noqa: N802
        if query["globalAlias"] not in self.buckets:
            raise GarageError(HTTPStatus.NOT_FOUND, "NoSuchBucket")
        return self._bucket(query["globalAlias"])

    def _AllowBucketKey(self, _query: dict[str, str], body: Any) -> Any:  # noqa: N802
        self.allowed[body["bucketId"], body["accessKeyId"]] = body["permissions"]
        return {}

    def _bucket(self, name: str) -> Any:
        keys = [
            {"accessKeyId": key, "name": found[1], "permissions": permissions}
            for (bucket, key), permissions in self.allowed.items()
            if bucket == self.buckets[name] and (found := self.keys.get(key))
        ]
        return {"id": self.buckets[name], "globalAliases": [name], "keys": keys}


class _Handler(Handler):
    owner: StandInGarage

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        self._serve()

    def do_GET(self) -> None:  # noqa: N802
        self._serve()

    def do_HEAD(self) -> None:  # noqa: N802
        """S3's HeadBucket."""
        name = urlsplit(self.path).path.strip("/")
        key = _CREDENTIAL.search(self.headers.get("Authorization", ""))
        bucket = self.owner.buckets.get(name, "")
        may = key and self.owner.allowed.get((bucket, key[1]), {}).get("read")
        self.answer(HTTPStatus.OK if may else HTTPStatus.FORBIDDEN, b"", {})

    def _serve(self) -> None:
        data = self.read_body()
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        try:
            if self.headers.get("Authorization") != f"Bearer {self.owner.token}":
                raise GarageError(HTTPStatus.FORBIDDEN, "AccessDenied")  # noqa: TRY301
            operation = place.path.removeprefix("/v2/")
            content = self.owner.serve(
                operation, query, json.loads(data) if data else None
            )
            status = HTTPStatus.OK
        except GarageError as error:
            content = {"code": error.code, "message": error.code, "path": self.path}
            status = error.status
        body = b"" if content is None else json.dumps(content).encode()
        self.answer(status, body, {"Content-Type": "application/json"})
