"""Broker accounts in RabbitMQ's definitions format."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from meshtasks.domain.accounts import rights_of
from meshtasks.domain.topology import Topology
from meshtasks.messaging.management import definitions

_SALT_BYTES = 4


def definitions_with_accounts(
    topology: Topology, vhost: str, passwords: Mapping[str, str]
) -> dict[str, Any]:
    """The topology with an account for each role, in a virtual host of its own.

    Args:
        topology: of the mesh.
        vhost: name of the virtual host.
        passwords: by role; all roles of :func:`~meshtasks.domain.accounts.rights_of`.
    """
    rights = rights_of(topology)
    return {
        **definitions(topology, vhost),
        "users": [
            {
                "name": role,
                "password_hash": password_hash(passwords[role]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [may.tags] if may.tags else [],
            }
            for role, may in rights.items()
        ],
        "permissions": [
            {
                "user": role,
                "vhost": vhost,
                "configure": may.configure,
                "write": may.write,
                "read": may.read,
            }
            for role, may in rights.items()
        ],
    }


def password_hash(password: str) -> str:
    """A salted hash as RabbitMQ stores it: base64 of the salt and of SHA-256 over
    salt and password (https://www.rabbitmq.com/docs/passwords)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode()
