"""Who may do what on the broker: one account per role, each with the least it needs.

RabbitMQ grants *configure* (declare and delete), *write* (publish to exchanges, bind
queues) and *read* (consume, bind to exchanges), each to the entities whose whole name
a regular expression matches (https://www.rabbitmq.com/docs/access-control). The
default exchange is called ``amq.default`` there. What is published to or subscribed on
a topic exchange can be narrowed once more by *topic permissions*, regular expressions
of the routing key.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from meshtasks.amqp.topology import Topology

#: What Celery itself declares: remote control, its replies, and task events.
_CELERY = (r"(.+\.)?celery\.pidbox", r"celeryev(\..+)?")
#: Queues that the broker names, for answers.
_ANSWERS = r"amq\.gen-.+"
#: What the MQTT plugin declares for a device that subscribes.
_SUBSCRIPTIONS = r"mqtt-subscription-.+"
#: What keeps two from looking through the dead letters at once.
_BROWSED = r".+\.browsed"
_DEFAULT_EXCHANGE = r"amq\.default"
#: Where the MQTT plugin publishes what devices send.
DEVICES_EXCHANGE = "amq.topic"
_DEVICES = re.escape(DEVICES_EXCHANGE)

#: How the accounts of single devices or sites are called.
DEVICE_PREFIX = "device_"

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
        topology: of the mesh.
        devices: names of devices or sites with an account of their own.

    Returns:
        By role: ``worker`` declares and works on the whole topology; ``producer``
        publishes to the exchanges of the domains; ``devices`` are MQTT devices, and
        ``device_<name>`` is one of them; ``normaliser`` takes what they sent and
        publishes readings; ``gateway`` publishes and calls commands; ``monitor``
        (Flower) hears events, asks workers and calls commands; ``operator``
        (``meshtasks status``, ``dlq``, ``topology check``) reads and writes
        everything, asks workers, and declares nothing but queues for answers.
    """
    exchanges = [each.name for each in topology.all_exchanges]
    names = [*map(re.escape, {*exchanges, *(q.name for q in topology.all_queues)})]
    mesh = sorted(names)
    domains = sorted(
        re.escape(each.name)
        for each in topology.exchanges
        if each.name not in _INTERNAL
    )
    commands = re.escape(topology.commands_queue)
    answers = rf"{commands}\.answers"
    return {
        "worker": Rights(
            _any(*mesh, *_CELERY, _ANSWERS, answers, _BROWSED),
            _any(*mesh, *_CELERY, _ANSWERS, _DEFAULT_EXCHANGE, answers),
            _any(*mesh, *_CELERY, _ANSWERS, _DEVICES, answers, _BROWSED),
            "management",
        ),
        "producer": Rights("", _any(*domains), ""),
        "devices": _devices(_DEVICES_CONNECTIONS, _DEVICES_CHANNELS),
        **{
            DEVICE_PREFIX + name: _devices(_DEVICE_CONNECTIONS, _DEVICE_CHANNELS)
            for name in devices
        },
        "normaliser": Rights("", _any(*domains, r"dead\.letter"), _any("devices")),
        "gateway": Rights("", _any(*domains, commands), _any(answers)),
        "monitor": Rights(
            _any(*_CELERY, _ANSWERS, commands),
            _any(*_CELERY, _ANSWERS, commands, _DEFAULT_EXCHANGE),
            _any(*_CELERY, _ANSWERS, commands),
            "monitoring",
        ),
        "operator": Rights(
            _any(*_CELERY, _ANSWERS, _BROWSED),
            _any(*mesh, *_CELERY, _ANSWERS, _DEFAULT_EXCHANGE),
            _any(*mesh, *_CELERY, _ANSWERS, _BROWSED),
            "monitoring",
        ),
    }


def _devices(connections: int, channels: int) -> Rights:
    return Rights(
        _any(_SUBSCRIPTIONS),
        _any(_SUBSCRIPTIONS, _DEVICES),
        _any(_SUBSCRIPTIONS, _DEVICES),
        topics=_READABLE_TOPIC,
        max_connections=connections,
        max_channels=channels,
    )


def _any(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"
