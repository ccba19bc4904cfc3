"""The broker through its management plugin: what it has, and what to import.

AMQP itself can neither list entities nor read their arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator

from meshtasks.amqp.entities import Binding
from meshtasks.amqp.management_api import Api
from meshtasks.amqp.topology import Topology

#: RabbitMQ writes an empty table as ``[]`` in places, and an absent one as null.
Table = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]


class LiveExchange(BaseModel):
    """An exchange as the broker has it."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool = False
    arguments: Table


class LiveQueue(BaseModel):
    """A queue as the broker has it.

    Attributes:
        effective_policy_definition: what policies add to its arguments.
        members: nodes with a copy of a quorum queue.
        online: nodes whose copy runs; none where the broker does not say. The leader
            says so: of a queue without one it is as it was, with nodes that are no
            members any more.
        leader: the node that leads, or led it last.
    """

    name: str
    durable: bool
    auto_delete: bool
    arguments: Table
    effective_policy_definition: Table = {}
    members: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    leader: str | None = None

    @property
    def stands_still(self) -> str | None:
        """Why no message can come in or go out; None if it can, as far as is known."""
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


class _Rate(BaseModel):
    rate: float = 0.0


class _MessageStats(BaseModel):
    publish: int = 0
    ack: int = 0
    publish_details: _Rate = _Rate()
    ack_details: _Rate = _Rate()


class QueueActivity(BaseModel):
    """What goes on in a queue; as old as the broker's statistics, five seconds by
    default. What the broker has not counted yet is zero.

    Attributes:
        messages_unacknowledged: messages that consumers hold.
    """

    name: str
    messages_unacknowledged: int = 0
    message_stats: _MessageStats = _MessageStats()

    @classmethod
    def total(cls, name: str, parts: Iterable[QueueActivity]) -> QueueActivity:
        """What goes on in the partitions of a queue."""
        parts = list(parts)
        stats = [part.message_stats for part in parts]
        return cls(
            name=name,
            messages_unacknowledged=sum(p.messages_unacknowledged for p in parts),
            message_stats=_MessageStats(
                publish=sum(each.publish for each in stats),
                ack=sum(each.ack for each in stats),
                publish_details=_Rate(rate=sum(s.publish_details.rate for s in stats)),
                ack_details=_Rate(rate=sum(s.ack_details.rate for s in stats)),
            ),
        )

    @property
    def messages_in(self) -> int:
        """Messages that came in since the broker was started."""
        return self.message_stats.publish

    @property
    def messages_out(self) -> int:
        """Messages that were acknowledged since the broker was started."""
        return self.message_stats.ack

    @property
    def in_per_second(self) -> float:
        """Messages that came in."""
        return self.message_stats.publish_details.rate

    @property
    def out_per_second(self) -> float:
        """Messages that were acknowledged."""
        return self.message_stats.ack_details.rate


class LiveNode(BaseModel):
    """A node of the broker's cluster.

    Attributes:
        mem_alarm: it takes no messages, because its memory is used up.
        disk_free_alarm: likewise, because its disk is full.
        disk_free: bytes.
        disk_free_limit: bytes; at less the alarm goes off.
    """

    name: str
    running: bool = True
    mem_alarm: bool = False
    disk_free_alarm: bool = False
    disk_free: int = 0
    disk_free_limit: int = 0


@dataclass(frozen=True, slots=True)
class Live:
    """Everything a virtual host has.

    Attributes:
        bindings: without those of the default exchange, which every queue has.
    """

    exchanges: list[LiveExchange]
    queues: list[LiveQueue]
    bindings: list[Binding]


def read(broker_url: str, management_url: str | None = None) -> Live:
    """Ask the broker what the virtual host of ``broker_url`` has.

    Args:
        broker_url: AMQP URL; its account is used. Of a cluster, those of its nodes,
            with ``;`` between them.
        management_url: URL of the management pages, which gets the account; of a
            cluster likewise, and whichever node answers is taken. By default port
            15672 of the broker's host (15671 with TLS when it is an ``amqps`` URL), if
            it shows that it is RabbitMQ's.

    Raises:
        ConfigError: the account, the virtual host or the URL is refused.
        Transient: nothing answers there.
    """
    api = Api(broker_url, management_url)
    bindings = api.all("bindings", "", _LiveBinding)
    return Live(
        exchanges=api.all("exchanges", "", LiveExchange),
        queues=api.all("queues", "", LiveQueue),
        bindings=[binding.as_binding() for binding in bindings if binding.source],
    )


def activity(
    broker_url: str, management_url: str | None = None
) -> dict[str, QueueActivity]:
    """What goes on in the queues of the virtual host of ``broker_url``, by name.

    Takes and raises what :func:`read` does.
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
    queues = Api(broker_url, management_url).all("queues", query, QueueActivity)
    return {queue.name: queue for queue in queues}


def nodes(broker_url: str, management_url: str | None = None) -> list[LiveNode]:
    """The nodes of the broker's cluster; needs the tag ``monitoring``.

    Takes and raises what :func:`read` does.
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
    """Give a running broker the accounts of its definitions file.

    Connections that are open stay so; a new password counts from the next login on.

    Args:
        broker_url: with an account of the tag ``administrator``.
        content: in RabbitMQ's definitions format.
        owned_prefix: accounts whose name begins so and that ``content`` lacks are
            deleted, which ends their connections.
        management_url: see :func:`read`.

    Raises:
        ConfigError: the account or the URL is refused.
        Transient: nothing answers there.
    """
    api = Api(broker_url, management_url)
    kinds = ("vhosts", "users", "permissions", "topic_permissions", "policies")
    wanted = {user["name"] for user in content["users"]}
    for user in api.get("/api/users", list[_User]):
        if user.name.startswith(owned_prefix) and user.name not in wanted:
            api.send("DELETE", f"/api/users/{quote(user.name, safe='')}")
    # Last, since the password of this account may change with it.
    api.send("POST", "/api/definitions", {kind: content[kind] for kind in kinds})


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """The topology in RabbitMQ's definitions format, for one virtual host.

    It holds no users and no permissions.
    """
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.type,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": exchange.arguments,
            }
            for exchange in topology.all_exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": queue.arguments,
            }
            for queue in topology.all_queues
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.destination,
                "destination_type": binding.destination_type,
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.all_bindings
        ],
    }
