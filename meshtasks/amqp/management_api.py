"""The way to the broker's management API: which node is asked, what it is asked with,
and what its refusals mean.
"""

from __future__ import annotations

import base64
import json
import ssl
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError

from meshtasks.amqp.connecting import unopened
from meshtasks.config.certificates import tls_fault
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, Transient
from meshtasks.http import Answer, cause_of, pool_manager, request

_TIMEOUT_SECONDS = 10.0
_AMQP_PORTS = (5671, 5672)
_SUCCESS = range(200, 300)
#: A broker of many queues tells of them in one answer.
_LIMIT_BYTES = 256 << 20
#: rabbit_mgmt_util.erl, AUTH_REALM.
_REALM = 'realm="RabbitMQ Management"'
_HINT = "its URL is set by MESH_MANAGEMENT_URL or --management-url"

_Entity = TypeVar("_Entity", bound=BaseModel)
_Answer = TypeVar("_Answer")


class Api:
    """The API of whichever node of the cluster answers, with the account and the
    virtual host of ``broker_url``.

    Raises:
        ConfigError: one of the URLs is none.
    """

    def __init__(self, broker_url: str, management_url: str | None) -> None:
        broker = unopened(broker_url)
        account = f"{broker.userid}:{broker.password}".encode()
        self._login = f"Basic {base64.b64encode(account).decode()}"
        self._vhost = quote(broker.virtual_host, safe="")
        self._urls = given = _split(management_url or "")
        for url in given:
            if urlsplit(url).scheme not in {"http", "https"}:
                raise _not_usable(url, "should be an http:// or https:// URL")
        #: Those that are guessed have to show themselves first.
        self._guessed = () if given else urls_of(broker_url)

    def all(self, kind: str, query: str, model: type[_Entity]) -> list[_Entity]:
        """The entities of one kind that the virtual host has.

        Raises:
            ConfigError: the account or the virtual host is refused, or it is no API
                of RabbitMQ's.
            Transient: no node answers.
        """
        path = f"/api/{kind}/{self._vhost}{query}"
        return self.get(path, list[model])  # type: ignore[valid-type]

    def get(self, path: str, model: type[_Answer]) -> _Answer:
        """An answer. Raises what :meth:`all` does."""
        base, answer = self._answer(path)
        self._urls, self._guessed = [base], ()  # it will answer once more
        try:
            return TypeAdapter(model).validate_json(answer)
        except ValidationError as error:
            reason = "does not answer as RabbitMQ's management API does"
            raise _not_usable(base, reason) from error

    def send(self, method: str, path: str, body: object = None) -> None:
        """A change. Raises what :meth:`all` does."""
        self._answer(path, method, body)

    def _answer(
        self, path: str, method: str = "GET", body: object = None
    ) -> tuple[str, bytes]:
        faults: list[str] = []
        for way in (*self._urls, *self._guessed):
            try:
                base = _own_url(way) if way in self._guessed else way
                answer = _call(base, path, self._login, method, body)
            except Transient as error:
                faults.append(str(error))
                continue
            if answer.status not in _SUCCESS:
                raise _not_usable(base, _meaning(answer.status))
            return base, answer.body
        raise Transient("; ".join(faults))


def urls(broker_url: str, management_url: str | None) -> list[str]:
    """Where the management pages of all nodes are, or may be by default."""
    given = _split(management_url or "")
    return given or [_default_url(url) for url in urls_of(broker_url)]


def _split(management_url: str) -> list[str]:
    return [url.rstrip("/") for url in urls_of(management_url) if url]


def _default_url(broker_url: str) -> str:
    parts = urlsplit(broker_url)
    host = parts.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    tls = parts.scheme == "amqps"
    return f"https://{host}:15671" if tls else f"http://{host}:15672"


def _own_url(broker_url: str) -> str:
    """Where the management pages are by default. Before they get the account they
    have to ask for one as RabbitMQ does: others listen on that port as well.

    Raises:
        ConfigError: these may be the pages of another broker.
        Transient: nothing answers there.
    """
    parts = urlsplit(broker_url)
    base = _default_url(broker_url)
    is_here = parts.hostname in {None, "localhost", "127.0.0.1", "::1"}
    if is_here and parts.port not in {None, *_AMQP_PORTS}:
        # One of several brokers of this machine, or a tunnel to another machine.
        reason = f"may be of another broker than that on port {parts.port}; {_HINT}"
        raise _not_usable(base, reason)
    answer = _call(base, "/api/overview")
    if _REALM in answer.headers.get("WWW-Authenticate", ""):
        return base
    reason = f"does not ask for an account as RabbitMQ's does; {_HINT}"
    raise _not_usable(base, reason)


def _call(
    base: str, path: str, login: str = "", method: str = "GET", body: object = None
) -> Answer:
    """An answer of any status. Raises Transient if there is none."""
    headers = {"Authorization": login} if login else {}
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body).encode()
    try:
        with pool_manager() as pool:
            answer = request(
                pool,
                method,
                base + path,
                timeout_seconds=_TIMEOUT_SECONDS,
                headers=headers,
                body=content,
                limit_bytes=_LIMIT_BYTES,
            )
        if answer.fault is not None:
            raise answer.fault
    except HTTPError as error:
        cause = cause_of(error)
        why, hint = str(cause), "Is the plugin rabbitmq_management enabled? "
        if isinstance(cause, ssl.SSLError):
            why, hint = tls_fault(cause), ""
        message = (
            f"the management API at {base} cannot be reached: {why}. {hint}{_HINT}"
        )
        raise Transient(message) from error
    return answer


def _meaning(status: int) -> str:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return (
                "refuses the account of MESH_BROKER_URL; it needs the tag "
                "'management' (rabbitmqctl set_user_tags USER management)"
            )
        case HTTPStatus.NOT_FOUND:
            return "has no such virtual host, or is no management API of RabbitMQ's"
        case _:
            return f"answers with status {status}"


def _not_usable(base: str, reason: str) -> ConfigError:
    return ConfigError("management API", base, reason)
