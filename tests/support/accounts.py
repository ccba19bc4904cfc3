"""Accounts of the broker with the rights of a role."""

from __future__ import annotations

from meshtasks.domain.accounts import rights_of
from meshtasks.embedded.rabbitmq import RabbitMQ
from tests.support.topologies import shipped_topology

PASSWORD = "word"


def account(node: RabbitMQ, vhost: str, role: str) -> str:
    """AMQP URL of an account of the test's own with the rights of a role; it is
    called ``<role>-<vhost>``."""
    name = f"{role}-{vhost}"
    may = rights_of(shipped_topology())[role]
    node.api("PUT", f"/users/{name}", {"password": PASSWORD, "tags": ""})
    rights = {"configure": may.configure, "write": may.write, "read": may.read}
    node.api("PUT", f"/permissions/{vhost}/{name}", rights)
    return f"amqp://{name}:{PASSWORD}@127.0.0.1:{node.ports.amqp}/{vhost}"
