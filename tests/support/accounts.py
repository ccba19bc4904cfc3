"""Accounts of the broker with the rights of a role."""

from __future__ import annotations

from meshtasks.amqp.accounts import permissions, rights_of, topic_permissions
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.topologies import shipped_topology

PASSWORD = "word"


def account(node: RabbitMQ, vhost: str, role: str) -> str:
    """AMQP URL of an account of the test's own with the rights of a role; it is
    called ``<role>-<vhost>``."""
    name = f"{role}-{vhost}"
    may = rights_of(shipped_topology())[role]
    node.api("PUT", f"/users/{name}", {"password": PASSWORD, "tags": may.tags})
    node.api("PUT", f"/permissions/{vhost}/{name}", permissions(may))
    if may.topics:
        node.api("PUT", f"/topic-permissions/{vhost}/{name}", topic_permissions(may))
    return f"amqp://{name}:{PASSWORD}@127.0.0.1:{node.ports.amqp}/{vhost}"
