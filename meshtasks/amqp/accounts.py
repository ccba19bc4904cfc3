"""Accounts of the broker: one per role, each with the least permissions it needs.

RabbitMQ has three permissions: *configure* (declare and delete), *write* (publish to
exchanges, bind queues) and *read* (consume, bind to exchanges). Each is a regular
expression that must match the whole name of an entity
(https://www.rabbitmq.com/docs/access-control); the default exchange is called
``amq.default`` there. *Topic permissions* restrict publishing to, and subscriptions on,
a topic exchange further, by regular expressions for the routing key.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import amqp
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.entities import MQTT_EXCHANGE, Exchange, HashExchange, is_reserved
from meshtasks.amqp.topology import Topology

#: Entities that Celery declares: remote control, its replies, and task events.
_CELERY = (r"(.+\.)?celery\.pidbox", r"celeryev(\..+)?")
#: Queues for answers, with names that the broker generates.
_ANSWERS = r"amq\.gen-.+"
#: Celery's entities for a program that only inspects workers and receives events: not
#: the workers' own queues.
_CELERY_ASKING = (
    r"(.+\.)?reply\.celery\.pidbox",
    r"celery\.pidbox",
    r"celeryev(\..+)?",
)
#: Exclusive queue that locks out other readers while dead letters are read.
_PEEK_LOCKS = r".+\.browsed"
_DEFAULT_EXCHANGE = r"amq\.default"
_DEVICES = re.escape(MQTT_EXCHANGE)

#: Longest pattern of the mesh's names, characters. RabbitMQ 4.3 refuses patterns of
#: more than 1,024 characters, and does not start with definitions that have one. The
#: rest of a pattern takes 200.
_LONGEST_OF_NAMES = 800

#: Account that manages accounts.
ADMIN = "admin"
#: Account of people and their commands. It declares no entity of the topology.
OPERATOR = "operator"
#: Prefix of the accounts of single devices or sites.
DEVICE_PREFIX = "device_"

#: The MQTT plugin names the queues of a device that subscribes by its client id. An
#: account of a device or site may use client ids that begin with its own name
#: (``device_attic``, ``device_attic-window``; no account name contains a dash). No
#: other account may use these, so nobody gets a device's messages by taking its id.
_OWN_SUBSCRIPTIONS = r"mqtt-subscription-{account}(-.+)?qos[01]"
_SHARED_SUBSCRIPTIONS = rf"mqtt-subscription-(?!{DEVICE_PREFIX}).+"

#: Routing keys that devices may use: 1 to 255 bytes, as in AMQP 0-9-1, of valid UTF-8
#: (the table of RFC 3629) without the control characters U+0000-1F and U+7F-9F. MQTT
#: topics may have 65,535 bytes, but RabbitMQ cannot deliver more than 255. It matches
#: bytes (PCRE without UTF mode), and `$` would accept a final newline.
_READABLE_TOPIC = (
    r"^(?=[^\n]{1,255}\z)(?:"
    r"[\x20-\x7e]"
    r"|\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]"
    r"|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]"
    r"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    r"|\xf0[\x90-\xbf][\x80-\xbf]{2}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
    r"|[\xf1-\xf3][\x80-\xbf]{3}"
    r")+\z"
)
#: Limits for devices. A device that reconnects in a loop, or is compromised, must not
#: exhaust the broker. An MQTT device needs one connection and one or two channels.
_DEVICES_CONNECTIONS, _DEVICES_CHANNELS = 1000, 4000
_DEVICE_CONNECTIONS, _DEVICE_CHANNELS = 50, 200

#: Exchanges to which only processes of the mesh publish.
_INTERNAL = frozenset({"archive", "dead.letter", "unrouted", "commands"})


class Rights(NamedTuple):
    """Permissions and limits of one account.

    Attributes:
        configure: regular expression for entities that it may declare and delete.
        write: regular expression for entities that it may publish or bind to.
        read: regular expression for entities that it may consume or bind from.
        tags: tags of the management plugin; most accounts have none.
        topics: regular expression for routing keys that it may publish or subscribe to
            on the exchange of devices; empty for all.
        max_connections: most open connections; None for no limit.
        max_channels: most open channels; None for no limit.
    """

    configure: str
    write: str
    read: str
    tags: str = ""
    topics: str = ""
    max_connections: int | None = None
    max_channels: int | None = None


def rights_of(topology: Topology, devices: Collection[str] = ()) -> dict[str, Rights]:
    """The rights of each role.

    * ``worker`` declares, reads and writes the whole topology.
    * ``producer`` publishes to the exchanges of the domains.
    * ``devices`` are MQTT devices that share an account; ``device_<name>`` is a device
      or site with an account of its own.
    * ``normaliser`` consumes the messages of devices, and publishes readings and dead
      letters.
    * ``gateway`` publishes and calls commands.
    * ``monitor`` (Flower) receives events, inspects workers and calls commands; it
      reads only queues for its answers.
    * ``operator`` (``meshtasks status``, ``dlq``, ``topology check``) reads and writes
      everything and inspects workers; it declares only Celery's entities, queues for
      answers, and the lock for reading dead letters.
    * ``admin`` manages the accounts (``meshtasks secrets``) and nothing else.

    Args:
        topology: the topology with all its names.
        devices: names of devices or sites with an account of their own.

    Returns:
        Rights by role.
    """
    names = {each.name for each in (*topology.all_exchanges, *topology.all_queues)}
    mesh = [_of_the_mesh(name for name in names if not is_reserved(name))]
    domains = sorted(
        re.escape(exchange.name)
        for exchange in topology.exchanges
        if exchange.name not in _INTERNAL
    )
    commands = re.escape(topology.commands_queue)
    answers = rf"{commands}\.answers"
    return {
        ADMIN: Rights("", "", "", "administrator"),
        "worker": Rights(
            _any(*mesh, *_CELERY, _ANSWERS, answers, _PEEK_LOCKS),
            _any(*mesh, *_CELERY, _ANSWERS, _DEFAULT_EXCHANGE, answers),
            _any(*mesh, *_CELERY, _ANSWERS, _DEVICES, answers, _PEEK_LOCKS),
            "management",
        ),
        "producer": Rights("", _any(*domains), ""),
        "devices": _devices(
            _SHARED_SUBSCRIPTIONS, _DEVICES_CONNECTIONS, _DEVICES_CHANNELS
        ),
        **{
            (account := DEVICE_PREFIX + name): _devices(
                _OWN_SUBSCRIPTIONS.format(account=account),
                _DEVICE_CONNECTIONS,
                _DEVICE_CHANNELS,
            )
            for name in devices
        },
        "normaliser": Rights("", _any(*domains, r"dead\.letter"), _any("devices")),
        "gateway": Rights("", _any(*domains, commands), _any(answers)),
        "monitor": Rights(
            _any(*_CELERY_ASKING, _ANSWERS),
            _any(*_CELERY_ASKING, _ANSWERS, commands),
            _any(*_CELERY_ASKING, _ANSWERS),
            "monitoring",
        ),
        OPERATOR: Rights(
            _any(*_CELERY, _ANSWERS, _PEEK_LOCKS),
            _any(*mesh, *_CELERY, _ANSWERS, _DEFAULT_EXCHANGE),
            _any(*mesh, *_CELERY, _ANSWERS, _DEVICES, _PEEK_LOCKS),
            "monitoring",
        ),
    }


def _devices(subscriptions: str, connections: int, channels: int) -> Rights:
    return Rights(
        _any(subscriptions),
        _any(subscriptions, _DEVICES),
        _any(subscriptions, _DEVICES),
        topics=_READABLE_TOPIC,
        max_connections=connections,
        max_channels=channels,
    )


def _of_the_mesh(names: Iterable[str]) -> str:
    """A pattern for these names and for the names of their partitions.

    It matches any number of partitions for every queue. The number may change, a worker
    looks for partitions of every queue, and RabbitMQ 4.3 tells an account whether a
    queue exists only if it has a permission for the name.
    """
    known = sorted(names)
    pattern = rf"(partitions\.)?({_exactly(known)})(\.part-\d+)?"
    if len(pattern) > _LONGEST_OF_NAMES:
        firsts = sorted({name.partition(".")[0] for name in known})
        pattern = rf"(partitions\.)?({_exactly(firsts)})(\..+)?"
    return pattern


def _exactly(names: Iterable[str]) -> str:
    """A pattern for exactly these sorted names, in which common beginnings of words are
    written once."""
    alternatives = []
    for first, group in groupby(names, lambda name: name.partition(".")[0]):
        rests = [name.partition(".")[2] for name in group]
        pattern = re.escape(first)
        if longer := [rest for rest in rests if rest]:
            more = rf"\.({_exactly(longer)})"
            pattern += more if len(longer) == len(rests) else f"({more})?"
        alternatives.append(pattern)
    return "|".join(alternatives)


def _any(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"


_SALT_BYTES = 4


#: Limits of the queues of devices that have a persistent session and are offline.
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
    """A definitions file of RabbitMQ: the topology in a virtual host, and an account
    for each role.

    Args:
        topology: the topology.
        vhost: name of the virtual host.
        passwords: passwords by role, for all roles of
            :func:`~meshtasks.amqp.accounts.rights_of`.
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
    """Permissions for exchanges and queues, in the format of RabbitMQ's API."""
    return {"configure": may.configure, "write": may.write, "read": may.read}


def topic_permissions(may: Rights) -> dict[str, str]:
    """Topic permissions, in the format of RabbitMQ's API; only for accounts that have
    ``topics``."""
    return {"exchange": MQTT_EXCHANGE, "write": may.topics, "read": may.topics}


def limits(may: Rights) -> dict[str, int]:
    """Limits of connections and channels, in the format of RabbitMQ's API."""
    found = {"max-connections": may.max_connections, "max-channels": may.max_channels}
    return {name: limit for name, limit in found.items() if limit is not None}


def password_hash(password: str) -> str:
    """The salted hash that RabbitMQ stores: base64 of salt and SHA-256 of salt plus
    password (https://www.rabbitmq.com/docs/passwords)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode()


def missing_rights(url: str, topology: Topology) -> list[str]:
    """The operations on exchanges that the account of a URL may not do, one line each.
    Exchanges that do not exist are skipped.

    Raises:
        ConfigError: the broker refuses the account or the virtual host.
        Transient: the broker is unreachable.
    """
    lines = []
    with connected(url) as connection:
        for exchange in topology.all_exchanges:
            name = exchange.name
            if _is_missing(connection, name):
                continue
            if not _may(connection, partial(_declare, exchange=exchange)):
                lines.append(f"declare exchange {name}")
            if not _may(connection, partial(_publish, name=name)):
                lines.append(f"publish to exchange {name}")
    return lines


def _may(connection: Any, attempt: Callable[[Any], None]) -> bool:
    channel = connection.channel()  # a new one, because a refusal closes it
    try:
        attempt(channel)
    except (AccessRefused, NotFound):
        return False
    except PreconditionFailed:
        return True  # permitted; only the arguments differ
    channel.close()
    return True


def _is_missing(connection: Any, name: str) -> bool:
    """Whether there is no such exchange. RabbitMQ 4.3 says so only to an account that
    has a permission for the name; else this returns false."""
    channel = connection.channel()
    try:
        channel.exchange_declare(name, "", passive=True)
    except NotFound:
        return True
    except AccessRefused:
        return False
    channel.close()
    return False


def _declare(channel: Any, exchange: Exchange | HashExchange) -> None:
    channel.exchange_declare(
        exchange.name,
        exchange.type,
        durable=True,
        auto_delete=False,
        arguments=exchange.arguments,
    )


def _publish(channel: Any, name: str) -> None:
    channel.tx_select()
    channel.basic_publish(amqp.Message(b""), name, "")
    channel.tx_rollback()


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """The topology in RabbitMQ's definitions format, for one virtual host, without
    users and permissions."""
    lasting = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                **lasting,
                "name": exchange.name,
                "type": exchange.type,
                "internal": False,
                "arguments": exchange.arguments,
            }
            for exchange in topology.all_exchanges
        ],
        "queues": [
            {**lasting, "name": queue.name, "arguments": queue.arguments}
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
