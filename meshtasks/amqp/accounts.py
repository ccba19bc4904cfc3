"""Broker accounts in RabbitMQ's definitions format."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Collection, Mapping
from typing import Any

from meshtasks.amqp.management import definitions
from meshtasks.amqp.rights import DEVICES_EXCHANGE, Rights, rights_of
from meshtasks.amqp.topology import Topology

_SALT_BYTES = 4


#: What waits for a device that subscribed for good and is away: neither without a
#: bound nor for ever.
_SUBSCRIPTIONS_POLICY = {
    "name": "mqtt-subscriptions",
    "pattern": "^mqtt-subscription-",
    "apply-to": "queues",
    "definition": {
        "expires": 7 * 24 * 3600 * 1000,
        "max-length": 10_000,
        "max-length-bytes": 16 * 1024 * 1024,
        "overflow": "drop-head",
    },
    "priority": 0,
}


def definitions_with_accounts(
    topology: Topology,
    vhost: str,
    passwords: Mapping[str, str],
    devices: Collection[str] = (),
) -> dict[str, Any]:
    """The topology with an account for each role, in a virtual host of its own.

    Args:
        topology: of the mesh.
        vhost: name of the virtual host.
        passwords: by role; all roles of :func:`~meshtasks.amqp.rights.rights_of`.
        devices: names of devices or sites with an account of their own.
    """
    rights = rights_of(topology, devices)
    return {
        **definitions(topology, vhost),
        "users": [
            {
                "name": role,
                "password_hash": password_hash(passwords[role]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [may.tags] if may.tags else [],
                "limits": limits(may),
            }
            for role, may in rights.items()
        ],
        "permissions": [
            {"user": role, "vhost": vhost, **permissions(may)}
            for role, may in rights.items()
        ],
        "topic_permissions": [
            {"user": role, "vhost": vhost, **topic_permissions(may)}
            for role, may in rights.items()
            if may.topics
        ],
        "policies": [{"vhost": vhost, **_SUBSCRIPTIONS_POLICY}],
    }


def permissions(may: Rights) -> dict[str, str]:
    """Rights on exchanges and queues, as RabbitMQ's API writes them."""
    return {"configure": may.configure, "write": may.write, "read": may.read}


def topic_permissions(may: Rights) -> dict[str, str]:
    """Rights on routing keys, likewise; only where there are any."""
    return {"exchange": DEVICES_EXCHANGE, "write": may.topics, "read": may.topics}


def limits(may: Rights) -> dict[str, int]:
    """What an account may have open at once, likewise."""
    found = {"max-connections": may.max_connections, "max-channels": may.max_channels}
    return {name: limit for name, limit in found.items() if limit is not None}


def password_hash(password: str) -> str:
    """A salted hash as RabbitMQ stores it: base64 of the salt and of SHA-256 over
    salt and password (https://www.rabbitmq.com/docs/passwords)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode()
