"""``meshtasks influxdb``: tokens of InfluxDB with minimal permissions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import typer
from urllib3.exceptions import HTTPError

from meshtasks.cli.terminal import say
from meshtasks.config.private_files import replace_file
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.http import pool_manager, request

_TIMEOUT_SECONDS = 10.0
_SUCCESS = range(200, 300)
_SERVER_ERROR = 500


_RETRY_SECONDS = 1.0


def influxdb(
    *,
    worker_file: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File for the token of workers, which can read and write points.",
        ),
    ],
    reader_file: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="File for the token of Grafana, which can only read."
        ),
    ],
    wait: Annotated[
        int,
        typer.Option(
            metavar="SECONDS", min=0, help="Time to wait until InfluxDB has started."
        ),
    ] = 120,
) -> None:
    """Create the InfluxDB tokens of workers and of Grafana, if they are missing.

    Both tokens are valid for the bucket MESH_INFLUX_BUCKET only. A token that is in its
    file and works is kept. Other tokens that this command created for the same purpose
    are deleted. MESH_INFLUX_ADMIN_TOKEN must be set.

    Exit codes: 0; 69 InfluxDB does not answer; 78 bad configuration, or InfluxDB
    rejects the token.
    """
    env = load_settings().env
    token = env.influx_admin_token.get_secret_value()
    if not token:
        expected = "expected the token of InfluxDB's owner"
        raise ConfigError("environment", "MESH_INFLUX_ADMIN_TOKEN", expected)
    owner = InfluxOwner(env.influx_url.rstrip("/"), token)
    deadline = time.monotonic() + wait
    while True:
        try:
            bucket = owner.bucket(env.influx_org, env.influx_bucket)
            break
        except Transient:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    for purpose, file, actions in (
        ("meshtasks worker", worker_file, ("read", "write")),
        ("meshtasks reader", reader_file, ("read",)),
    ):
        is_new = owner.keep_token(purpose, file, bucket, actions)
        say(f"{file}: {'made' if is_new else 'kept'}: {purpose}")


class Bucket(NamedTuple):
    """A bucket of InfluxDB, and its organisation."""

    id: str
    org_id: str


class InfluxOwner:
    """The API of InfluxDB 2, used with the token of its owner.

    The API: https://docs.influxdata.com/influxdb/v2/api/.

    Every method raises ConfigError if InfluxDB refuses the token or the request, and
    Transient if it is unavailable.

    Args:
        token: token of the owner, with all permissions.
    """

    def __init__(self, url: str, token: str) -> None:
        self._api = f"{url}/api/v2"
        self._token = token

    def _call(self, method: str, path: str, body: object = None) -> Any:
        login = {"Authorization": f"Token {self._token}"}
        return call("InfluxDB", method, f"{self._api}{path}", login, body)

    def bucket(self, org: str, name: str) -> Bucket:
        """A bucket by name."""
        asked = urlencode({"org": org, "name": name})
        found = self._call("GET", f"/buckets?{asked}")["buckets"]
        if not found:
            expected = f"there is none of this name in the organisation {org}"
            raise ConfigError("InfluxDB", f"bucket {name}", expected)
        return Bucket(found[0]["id"], found[0]["orgID"])

    def keep_token(
        self, purpose: str, file: Path, bucket: Bucket, actions: Iterable[str]
    ) -> bool:
        """Make sure that a file contains a token for one bucket only.

        Args:
            purpose: description of the token in InfluxDB, which identifies it.
            file: file of the token. Everybody may read it, because its readers have
                other accounts, so it must be in a directory or volume of theirs.
            bucket: bucket that the token gives access to.
            actions: ``read``, ``write`` or both.

        Returns:
            Whether the token is new.

        Raises:
            OSError: the file cannot be written.
        """
        resource = {"type": "buckets", "id": bucket.id, "orgID": bucket.org_id}
        may = [{"action": action, "resource": resource} for action in actions]
        known = file.read_text(encoding="ascii").strip() if file.is_file() else ""
        before = [
            each
            for each in self._call("GET", "/authorizations")["authorizations"]
            if each.get("description") == purpose
        ]
        ours = [each for each in before if each.get("token") == known]
        # A server that stores only hashes of tokens does not return them.
        may_be_kept = not any(each.get("token") for each in before) or any(
            _rights(each["permissions"]) == _rights(may) for each in ours
        )
        is_new = not (known and may_be_kept and self._is_good(known, bucket))
        if is_new:
            asked = {"orgID": bucket.org_id, "description": purpose}
            made = self._call("POST", "/authorizations", {**asked, "permissions": may})
            known = str(made["token"])
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, known.encode(), 0o644)
        for each in before:
            if is_new or each.get("token", known) != known:
                self._call("DELETE", f"/authorizations/{each['id']}")
        return is_new

    def _is_good(self, token: str, bucket: Bucket) -> bool:
        try:
            login = {"Authorization": f"Token {token}"}
            call("InfluxDB", "GET", f"{self._api}/buckets/{bucket.id}", login)
        except ConfigError:
            return False
        return True

    def change_password(self, new: str) -> None:
        """Change the password of the owner."""
        user = self._call("GET", "/me")["id"]
        self._call("POST", f"/users/{user}/password", {"password": new})

    def another_token(self) -> tuple[str, Callable[[], None]]:
        """Create another token with the same permissions.

        Returns:
            The token, and a function that deletes the old one.
        """
        known = self._call("GET", "/authorizations")["authorizations"]
        ours = next((each for each in known if each.get("token") == self._token), None)
        if ours is None:
            expected = "shows no token that is this one; nothing was changed"
            raise ConfigError("InfluxDB", "INFLUX_ADMIN_TOKEN", expected)
        kept = ("orgID", "userID", "description", "permissions")
        made = self._call(
            "POST", "/authorizations", {name: ours[name] for name in kept}
        )

        def forget() -> None:
            self._token = made["token"]
            self._call("DELETE", f"/authorizations/{ours['id']}")

        return str(made["token"]), forget


def _rights(permissions: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (each["action"], each["resource"]["type"], each["resource"].get("id", ""))
        for each in permissions
    }


def call(
    service: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: object = None,
) -> Any:
    """Call the JSON API of a service.

    Args:
        service: name of the service, for errors.
        body: value to send as JSON; None for no body.

    Returns:
        The decoded response; None if it is empty.

    Raises:
        ConfigError: the service refuses the request; the text has its response.
        Transient: the service is unavailable, or not ready.
    """
    sent = {**headers, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with pool_manager() as pool:
            answer = request(
                pool,
                method,
                url,
                timeout_seconds=_TIMEOUT_SECONDS,
                headers=sent,
                body=data,
            )
    except HTTPError as error:
        message = f"{service} does not answer at {url}: {error}. Is it running?"
        raise Transient(message) from error
    if answer.status >= _SERVER_ERROR:
        message = f"{service} is not ready: {url} answers with {answer.status}"
        raise Transient(message)
    if answer.status not in _SUCCESS:
        said = f"answers with {answer.status}: {answer.text[:300]}"
        raise ConfigError(service, url, said)
    try:
        return json.loads(answer.body) if answer.body.strip() else None
    except ValueError as error:
        raise ConfigError(service, url, "does not answer in JSON") from error
