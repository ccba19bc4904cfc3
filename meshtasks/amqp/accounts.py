"""Who may do what on the broker: one account per role, each with the least it needs.

RabbitMQ grants *configure* (declare and delete), *write* (publish to exchanges, bind
queues) and *read* (consume, bind to exchanges), each to the entities whose whole name
a regular expression matches (https://www.rabbitmq.com/docs/access-control). The
default exchange is called ``amq.default`` there. What is published to or subscribed on
a topic exchange can be narrowed once more by *topic permissions*, regular expressions
of the routing key.
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
from meshtasks.amqp.management import definitions
from meshtasks.amqp.topology import Topology

#: What Celery itself declares: remote control, its replies, and task events.
_CELERY = (r"(.+\.)?celery\.pidbox", r"celeryev(\..+)?")
#: Queues that the broker names, for answers.
_ANSWERS = r"amq\.gen-.+"
#: Of these, what who only asks and listens has to do with: not the workers' mailboxes.
_CELERY_ASKING = (
    r"(.+\.)?reply\.celery\.pidbox",
    r"celery\.pidbox",
    r"celeryev(\..+)?",
)
#: The lock of those who peek at the dead letters.
_PEEK_LOCKS = r".+\.browsed"
_DEFAULT_EXCHANGE = r"amq\.default"
_DEVICES = re.escape(MQTT_EXCHANGE)

#: RabbitMQ 4.3 refuses patterns of more than 1,024 characters, and does not start with
#: definitions that have one. The rest of a pattern takes 200.
_LONGEST_OF_NAMES = 800

#: The account that makes accounts.
ADMIN = "admin"
#: The account of people and their commands: it declares nothing.
OPERATOR = "operator"
#: How the accounts of single devices or sites are called.
DEVICE_PREFIX = "device_"

#: What the MQTT plugin declares for a device that subscribes is named for its client
#: id. An account of a device or site may use the ids that begin with its own name
#: (``device_attic``, ``device_attic-window``; no account's name has a dash), and
#: nobody else may use those: what waits for one is not to be had by taking its id.
_OWN_SUBSCRIPTIONS = r"mqtt-subscription-{account}(-.+)?qos[01]"
_SHARED_SUBSCRIPTIONS = rf"mqtt-subscription-(?!{DEVICE_PREFIX}).+"

#: A routing key as AMQP 0-9-1 can carry it and everybody can read it: valid UTF-8 (the
#: table of RFC 3629, less the control characters U+0000-1F and U+7F-9F) of 1 to 255
#: bytes. MQTT's topics may have 65,535; a longer one, cut or not, cannot be delivered.
#: RabbitMQ matches bytes (PCRE without its UTF mode), and `$` would let a final
#: newline pass.
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
#: One device that reconnects in a loop, or one that was taken over, must not use up
#: the broker for all. MQTT takes a connection and at most a channel or two a device.
_DEVICES_CONNECTIONS, _DEVICES_CHANNELS = 1000, 4000
_DEVICE_CONNECTIONS, _DEVICE_CHANNELS = 50, 200

#: Exchanges that only the mesh's own processes publish to.
_INTERNAL = frozenset({"archive", "dead.letter", "unrouted", "commands"})


class Rights(NamedTuple):
    """What one account may do.

    Attributes:
        configure: regular expression of the entities it may declare and delete.
        write: of those it may publish or bind to.
        read: of those it may consume or bind from.
        tags: of the management API; most have none.
        topics: regular expression of the routing keys it may publish to and
            subscribe on the exchange of the devices; empty for any.
        max_connections: it may have open at once; None for any number.
        max_channels: likewise.
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

    Args:
        devices: names of devices or sites with an account of their own.

    Returns:
        By role: ``worker`` declares and works on the whole topology; ``producer``
        publishes to the exchanges of the domains; ``devices`` are MQTT devices, and
        ``device_<name>`` is one of them; ``normaliser`` takes what they sent and
        publishes readings; ``gateway`` publishes and calls commands; ``monitor``
        (Flower) receives events, inspects workers and calls commands, and reads no
        queue but those made for its answers; ``operator``
        (``meshtasks status``, ``dlq``, ``topology check``) reads and writes
        everything, inspects workers, and declares nothing but queues for answers;
        ``admin`` looks after the accounts (``meshtasks secrets``) and nothing else.
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
    """A pattern of these names and of what partitions of them are called.

    Of any number of partitions, since that may change: a worker looks for those of
    every queue, and RabbitMQ 4.3 tells nobody without a right to a name whether it
    exists.
    """
    known = sorted(names)
    pattern = rf"(partitions\.)?({_exactly(known)})(\.part-\d+)?"
    if len(pattern) > _LONGEST_OF_NAMES:
        firsts = sorted({name.partition(".")[0] for name in known})
        pattern = rf"(partitions\.)?({_exactly(firsts)})(\..+)?"
    return pattern


def _exactly(names: Iterable[str]) -> str:
    """A pattern of these names, sorted, which has each beginning once."""
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
        passwords: by role; all roles of :func:`~meshtasks.amqp.accounts.rights_of`.
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
    return {"exchange": MQTT_EXCHANGE, "write": may.topics, "read": may.topics}


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


def missing_rights(url: str, topology: Topology) -> list[str]:
    """What the account of this URL may not do, a line each; exchanges that are not
    there are passed over.

    Raises:
        ConfigError: the broker refuses the account or the virtual host.
        Transient: the broker cannot be reached.
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
    channel = connection.channel()  # of its own: a refusal closes it
    try:
        attempt(channel)
    except (AccessRefused, NotFound):
        return False
    except PreconditionFailed:
        return True  # it might, but for other arguments
    channel.close()
    return True


def _is_missing(connection: Any, name: str) -> bool:
    """Whether there is no such exchange. RabbitMQ 4.3 says so only to who has a right
    to it."""
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
