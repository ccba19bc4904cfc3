"""Client of RabbitMQ's management API.

AMQP itself can neither list entities nor read their arguments. This module also selects
the node and the URL, and explains errors.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import (
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from urllib3.exceptions import HTTPError

from meshtasks.amqp.connecting import unopened
from meshtasks.amqp.entities import Binding
from meshtasks.config.certificates import tls_fault
from meshtasks.config.urls import urls_of
from meshtasks.errors import ConfigError, Transient
from meshtasks.http import Answer, cause_of, pool_manager, request

_TIMEOUT_SECONDS = 10.0
#: RabbitMQ may answer 500 if an entity is deleted while it lists them.
_REPEATS, _PAUSE_SECONDS = 3, 0.3
_AMQP_PORTS = (5671, 5672)
_SUCCESS = range(200, 300)
#: Largest response. A broker lists all its queues in one response.
_LIMIT_BYTES = 256 << 20
#: The realm with which RabbitMQ asks for a password (rabbit_mgmt_util.erl, AUTH_REALM).
_REALM = 'realm="RabbitMQ Management"'
_HINT = "its URL is set by MESH_MANAGEMENT_URL or --management-url"

_Entity = TypeVar("_Entity", bound=BaseModel)
_Answer = TypeVar("_Answer")


class Api:
    """The management API of a cluster; the first node that responds is used. For the
    arguments see :func:`read`.

    Raises:
        ConfigError: a URL is invalid.
    """

    def __init__(self, broker_url: str, management_url: str | None) -> None:
        broker = unopened(broker_url)
        account = f"{broker.userid}:{broker.password}".encode()
        self._login = f"Basic {base64.b64encode(account).decode()}"
        self._vhost = quote(broker.virtual_host, safe="")
        self._pool = pool_manager()
        self._urls = given = _split(management_url)
        for url in given:
            if urlsplit(url).scheme not in {"http", "https"}:
                raise _not_usable(url, "should be an http:// or https:// URL")
        # Broker URLs whose default management URL must be verified before use.
        self._guessed = () if given else urls_of(broker_url)

    def all(self, kind: str, model: type[_Entity], query: str = "") -> list[_Entity]:
        """Read all entities of one kind (such as ``queues``) in the virtual host.

        Raises:
            ConfigError: the API refuses the account or the virtual host, or it is not
                RabbitMQ's.
            Transient: no node responds.
        """
        path = f"/api/{kind}/{self._vhost}{query}"
        return self.get(path, list[model])  # type: ignore[valid-type]

    def get(self, path: str, model: type[_Answer]) -> _Answer:
        """Read one path. Raises the same as :meth:`all`."""
        base, answer = self._answer(path)
        self._urls, self._guessed = [base], ()  # keep to this node
        try:
            return TypeAdapter(model).validate_json(answer)
        except ValidationError as error:
            reason = "does not answer as RabbitMQ's management API does"
            raise _not_usable(base, reason) from error

    def send(self, method: str, path: str, body: object = None) -> None:
        """Send a change. Raises the same as :meth:`all`."""
        self._answer(path, method, body)

    def _answer(
        self, path: str, method: str = "GET", body: object = None
    ) -> tuple[str, bytes]:
        faults: list[str] = []
        for way in (*self._urls, *self._guessed):
            try:
                base = self._own_url(way) if way in self._guessed else way
                answer = self._call_again(base, path, method, body)
            except Transient as error:
                faults.append(str(error))
                continue
            if answer.status not in _SUCCESS:
                raise _not_usable(base, _meaning(answer.status))
            return base, answer.body
        raise Transient("; ".join(faults))

    def _own_url(self, broker_url: str) -> str:
        """The default URL of the management plugin of a node, verified.

        Another service may listen on that port. So before the account is sent, the
        service must ask for a password as RabbitMQ does.

        Raises:
            ConfigError: it may belong to another broker, or is not RabbitMQ's.
            Transient: it is unreachable.
        """
        parts = urlsplit(broker_url)
        base = _default_url(broker_url)
        is_here = parts.hostname in {None, "localhost", "127.0.0.1", "::1"}
        if is_here and parts.port not in {None, *_AMQP_PORTS}:
            # One of several brokers on this machine, or a tunnel to another machine.
            reason = f"may be of another broker than that on port {parts.port}; {_HINT}"
            raise _not_usable(base, reason)
        answer = self._call(base, "/api/overview", {})
        if _REALM in answer.headers.get("WWW-Authenticate", ""):
            return base
        reason = f"does not ask for an account as RabbitMQ's does; {_HINT}"
        raise _not_usable(base, reason)

    def _call_again(self, base: str, path: str, method: str, body: object) -> Answer:
        """Send a request with the account, and repeat a GET that RabbitMQ answers with
        500."""
        headers = {"Authorization": self._login}
        for _ in range(_REPEATS if method == "GET" else 0):
            answer = self._call(base, path, headers)
            if answer.status != HTTPStatus.INTERNAL_SERVER_ERROR:
                return answer
            time.sleep(_PAUSE_SECONDS)
        return self._call(base, path, headers, method, body)

    def _call(
        self,
        base: str,
        path: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: object = None,
    ) -> Answer:
        """Send a request; return the response of any status. Raises Transient if there
        is none."""
        content = None
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
            content = json.dumps(body).encode()
        try:
            answer = request(
                self._pool,
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
            why = f"{cause}. Is the plugin rabbitmq_management enabled?"
            if isinstance(cause, ssl.SSLError):
                why = f"{tls_fault(cause)}."
            message = f"the management API at {base} cannot be reached: {why} {_HINT}"
            raise Transient(message) from error
        return answer


def urls(broker_url: str, management_url: str | None) -> list[str]:
    """URLs of the management plugins of all nodes: those given, else the defaults."""
    return _split(management_url) or [_default_url(url) for url in urls_of(broker_url)]


def _split(management_url: str | None) -> list[str]:
    return [url.rstrip("/") for url in urls_of(management_url or "") if url]


def _default_url(broker_url: str) -> str:
    parts = urlsplit(broker_url)
    host = parts.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    tls = parts.scheme == "amqps"
    return f"https://{host}:15671" if tls else f"http://{host}:15672"


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


#: A table. RabbitMQ sometimes writes an empty one as ``[]``, and a missing one as null.
Table = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]


class LiveExchange(BaseModel):
    """An exchange on the broker."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool = False
    arguments: Table


class LiveQueue(BaseModel):
    """A queue on the broker.

    Attributes:
        policy: name of its policy.
        operator_policy: name of its operator policy.
        effective_policy_definition: arguments that both add.
        members: nodes that have a replica of a quorum queue.
        online: nodes whose replica runs; empty if the broker does not say. The leader
            reports it: without a leader the value is old, and may have nodes that are
            no longer members.
        leader: node of the leader, or of the last one.
    """

    name: str
    durable: bool
    auto_delete: bool
    arguments: Table
    policy: str | None = None
    operator_policy: str | None = None
    effective_policy_definition: Table = {}
    members: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    leader: str | None = None

    @property
    def policies(self) -> str:
        """Its policies, by kind and name."""
        names = {"policy": self.policy, "operator policy": self.operator_policy}
        return " or ".join(f"{kind} {name!r}" for kind, name in names.items() if name)

    @property
    def stands_still(self) -> str | None:
        """Why the quorum queue cannot work; None if no reason is known."""
        running = len({*self.online} & {*self.members})
        if self.online and 2 * running <= len(self.members):
            members = f"{running} of {len(self.members)} members run"
            return f"{members}, which is no majority"
        if self.leader and self.members and self.leader not in self.members:
            return f"{self.leader} led it and is no member any more"
        return None


class _LiveBinding(BaseModel):
    source: str
    destination: str
    destination_type: str
    routing_key: str

    def as_binding(self) -> Binding:
        to = "queue" if self.destination_type == "queue" else "to_exchange"
        return Binding.model_validate(
            {
                "exchange": self.source,
                to: self.destination,
                "routing_key": self.routing_key,
            }
        )


def _counted(*path: str) -> Any:
    """A field of ``message_stats``; 0 until the broker has a value."""
    return Field(default=0, validation_alias=AliasPath("message_stats", *path))


class QueueActivity(BaseModel):
    """Statistics of a queue. The broker updates them every five seconds by default. A
    value that the broker does not have yet is zero.

    Attributes:
        messages_unacknowledged: messages that consumers hold.
        messages_in: messages published to it since the start of the broker.
        messages_out: messages acknowledged since then.
        in_per_second: rate of published messages.
        out_per_second: rate of acknowledged messages.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: str
    messages_unacknowledged: int = 0
    messages_in: int = _counted("publish")
    messages_out: int = _counted("ack")
    in_per_second: float = _counted("publish_details", "rate")
    out_per_second: float = _counted("ack_details", "rate")

    @classmethod
    def total(cls, name: str, parts: Iterable[QueueActivity]) -> QueueActivity:
        """The sums of the statistics of partitions, under the name of their queue."""
        numbers = [part.model_dump(exclude={"name"}) for part in parts]
        keys = cls.model_fields.keys() - {"name"}
        return cls(name=name, **{key: sum(n[key] for n in numbers) for key in keys})


class LiveNode(BaseModel):
    """A node of the broker's cluster.

    Attributes:
        mem_alarm: whether it blocks publishers because it is short of memory.
        disk_free_alarm: whether it blocks publishers because it is short of disk space.
        disk_free: free disk space, bytes.
        disk_free_limit: the alarm is raised below this, bytes.
    """

    name: str
    running: bool = True
    mem_alarm: bool = False
    disk_free_alarm: bool = False
    disk_free: int = 0
    disk_free_limit: int = 0


@dataclass(frozen=True, slots=True)
class Live:
    """All entities of a virtual host, except bindings of the default exchange."""

    exchanges: list[LiveExchange]
    queues: list[LiveQueue]
    bindings: list[Binding]


def read(broker_url: str, management_url: str | None = None) -> Live:
    """Read all entities of the virtual host of ``broker_url``.

    Args:
        broker_url: AMQP URL, whose account and virtual host are used; of a cluster the
            URLs of its nodes, separated by ``;``.
        management_url: URL of the management plugin; of a cluster the URLs of its
            nodes, separated by ``;``. Default: port 15672 of the broker's host, or
            15671 with TLS for an ``amqps`` URL, if RabbitMQ responds there.

    Raises:
        ConfigError: the API refuses the account or the virtual host, or a URL is
            invalid.
        Transient: no node responds.
    """
    api = Api(broker_url, management_url)
    bindings = api.all("bindings", _LiveBinding)
    return Live(
        exchanges=api.all("exchanges", LiveExchange),
        queues=api.all("queues", LiveQueue),
        bindings=[binding.as_binding() for binding in bindings if binding.source],
    )


def activity(
    broker_url: str, management_url: str | None = None
) -> dict[str, QueueActivity]:
    """Statistics of the queues of the virtual host of ``broker_url``, by name.

    Arguments and errors are those of :func:`read`.
    """
    columns = (
        "name",
        "messages_unacknowledged",
        "message_stats.publish",
        "message_stats.ack",
        "message_stats.publish_details.rate",
        "message_stats.ack_details.rate",
    )
    query = f"?columns={','.join(columns)}"
    queues = Api(broker_url, management_url).all("queues", QueueActivity, query)
    return {queue.name: queue for queue in queues}


def nodes(broker_url: str, management_url: str | None = None) -> list[LiveNode]:
    """The nodes of the broker's cluster; the account needs the tag ``monitoring``.

    Arguments and errors are those of :func:`read`.
    """
    return Api(broker_url, management_url).get("/api/nodes", list[LiveNode])


class _User(BaseModel):
    name: str


def import_accounts(
    broker_url: str,
    content: Mapping[str, Any],
    owned_prefix: str,
    management_url: str | None = None,
) -> None:
    """Import the accounts of a definitions file into a running broker.

    Open connections stay open; a new password takes effect at the next login.

    Args:
        broker_url: AMQP URL of an account with the tag ``administrator``.
        content: definitions in RabbitMQ's format.
        owned_prefix: accounts whose names begin with this and that are not in
            ``content`` are deleted, which closes their connections.
        management_url: see :func:`read`.

    Raises:
        ConfigError: the API refuses the account, or a URL is invalid.
        Transient: no node responds.
    """
    api = Api(broker_url, management_url)
    kinds = ("vhosts", "users", "permissions", "topic_permissions", "policies")
    wanted = {user["name"] for user in content["users"]}
    for user in api.get("/api/users", list[_User]):
        if user.name.startswith(owned_prefix) and user.name not in wanted:
            api.send("DELETE", f"/api/users/{quote(user.name, safe='')}")
    # Last, since the password of this account may change with it.
    api.send("POST", "/api/definitions", {kind: content[kind] for kind in kinds})
