"""A stand-in for the part of InfluxDB 2 that its owner uses: users, buckets, tokens.

After https://github.com/influxdata/openapi (contracts/oss.yml): ``/api/v2/me``,
``/buckets``, ``/authorizations``, ``/users/{id}/password``. It writes no points.
"""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.httpserver import Handler, HTTPServer

ORG, OWNER, BUCKET = "0000000000000001", "0000000000000002", "0000000000000003"


class InfluxOwner(HTTPServer):
    """A server that was set up with one organisation, one bucket and one token.

    Attributes:
        authorizations: by id.
        password: of the first user; the empty text until it was changed.
        hashes: it keeps only hashes of tokens, and shows none (use-hashed-tokens).
    """

    def __init__(self, token: str, org: str = "home", bucket: str = "mesh") -> None:
        super().__init__(_Api)
        self.org, self.bucket, self.password = org, bucket, ""
        self.hashes = False
        self.authorizations: dict[str, dict[str, Any]] = {}
        everything = [
            {"action": action, "resource": {"type": kind}}
            for kind in ("authorizations", "buckets", "users")
            for action in ("read", "write")
        ]
        self.authorize({"description": "owner's Token", "permissions": everything})
        (made,) = self.authorizations.values()
        made["token"] = token

    def authorize(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a token."""
        made = {
            "id": secrets.token_hex(8),
            "orgID": ORG,
            "userID": OWNER,
            "status": "active",
            **asked,
            "token": secrets.token_urlsafe(24),
        }
        self.authorizations[made["id"]] = made
        return made

    def listed(self) -> list[dict[str, Any]]:
        """All tokens, as they are shown."""
        hidden = {"token"} if self.hashes else set[str]()
        return [
            {name: value for name, value in each.items() if name not in hidden}
            for each in self.authorizations.values()
        ]

    def may(self, token: str, action: str, kind: str) -> bool:
        """Whether a token is good for something."""
        wanted = (action, kind)
        return any(
            (each["action"], each["resource"]["type"]) == wanted
            for found in self.authorizations.values()
            if found["token"] == token and found["status"] == "active"
            for each in found["permissions"]
        )


class _Api(Handler):
    owner: InfluxOwner

    def _serve(self) -> None:
        body = self.read_body()
        url = urlsplit(self.path)
        _, _, _, kind, *rest = [*url.path.split("/"), "", ""]
        token = (self.headers.get("Authorization") or "").removeprefix("Token ")
        resource = {"me": "users"}.get(kind, kind)
        action = "read" if self.command == "GET" else "write"
        if not self.owner.may(token, action, resource):
            self._say(401, {"code": "unauthorized", "message": "unauthorized access"})
            return
        query = {name: value for name, (value,) in parse_qs(url.query).items()}
        match self.command, kind:
            case "GET", "me":
                self._say(200, {"id": OWNER, "name": "owner", "status": "active"})
            case "GET", "buckets":
                bucket = {"id": BUCKET, "orgID": ORG, "name": self.owner.bucket}
                asked = (query.get("org"), query.get("name"))
                is_it = asked == (self.owner.org, self.owner.bucket)
                every = {"buckets": [bucket] if is_it else []}
                self._say(200, bucket if rest[0] == BUCKET else every)
            case "GET", "authorizations":
                self._say(200, {"authorizations": self.owner.listed()})
            case "POST", "authorizations":
                self._say(201, self.owner.authorize(json.loads(body)))
            case "DELETE", "authorizations":
                found = self.owner.authorizations.pop(rest[0], None)
                self._say(204 if found else 404, None)
            case "POST", "users" if rest[:2] == [OWNER, "password"]:
                self.owner.password = json.loads(body)["password"]
                self._say(204, None)
            case _:
                self._say(404, {"code": "not found", "message": "path not found"})

    def _say(self, status: int, content: object) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.answer(HTTPStatus(status), body, {"Content-Type": "application/json"})

    do_DELETE = do_GET = do_POST = _serve  # noqa: N815 - as http.server has it
