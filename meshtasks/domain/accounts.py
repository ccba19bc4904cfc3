"""Who may do what on the broker: one account per role, each with the least it needs.

RabbitMQ grants *configure* (declare and delete), *write* (publish to exchanges, bind
queues) and *read* (consume, bind to exchanges), each to the entities whose whole name
a regular expression matches (https://www.rabbitmq.com/docs/access-control). The
default exchange is called ``amq.default`` there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from meshtasks.domain.topology import Topology

#: What Celery itself declares: remote control, its replies, and task events.
_CELERY = (r"(.+\.)?celery\.pidbox", r"celeryev(\..+)?")
#: Queues that the broker names, for answers.
_ANSWERS = r"amq\.gen-.+"
#: What the MQTT plugin declares for a device that subscribes.
_SUBSCRIPTIONS = r"mqtt-subscription-.+"
#: What keeps two from looking through the dead letters at once.
_BROWSED = r".+\.browsed"
_DEFAULT_EXCHANGE = r"amq\.default"
_DEVICES_EXCHANGE = r"amq\.topic"

#: Exchanges that only the mesh's own processes publish to.
_INTERNAL = frozenset({"archive", "dead.letter", "unrouted", "commands"})


class Rights(NamedTuple):
    """What one account may do.

    Attributes:
        configure: regular expression of the entities it may declare and delete.
        write: of those it may publish or bind to.
        read: of those it may consume or bind from.
        tags: of the management API; most have none.
    """

    configure: str
    write: str
    read: str
    tags: str = ""


def rights_of(topology: Topology) -> dict[str, Rights]:
    """The rights of each role.

    Returns:
        By role: ``worker`` declares and works on the whole topology; ``producer``
        publishes to the exchanges of the domains; ``devices`` are MQTT devices;
        ``normaliser`` takes what they sent and publishes readings; ``gateway``
        publishes and calls commands; ``monitor`` (Flower, status, dashboards)
        watches, and calls commands; ``operator`` (``meshtasks dlq`` and the like)
        reads and writes everything and declares nothing but queues for answers.
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
            _any(*mesh, *_CELERY, _ANSWERS, _DEVICES_EXCHANGE, answers, _BROWSED),
        ),
        "producer": Rights("", _any(*domains), ""),
        "devices": Rights(
            _any(_SUBSCRIPTIONS),
            _any(_SUBSCRIPTIONS, _DEVICES_EXCHANGE),
            _any(_SUBSCRIPTIONS, _DEVICES_EXCHANGE),
        ),
        "normaliser": Rights("", _any(*domains, r"dead\.letter"), _any("devices")),
        "gateway": Rights(
            _any(_ANSWERS, commands, answers),
            _any(*domains, _ANSWERS, commands, answers, _DEFAULT_EXCHANGE),
            _any(_ANSWERS, commands, answers),
        ),
        "monitor": Rights(
            _any(*_CELERY, _ANSWERS, commands),
            _any(*_CELERY, _ANSWERS, commands, _DEFAULT_EXCHANGE),
            _any(*mesh, *_CELERY, _ANSWERS),
            "monitoring",
        ),
        "operator": Rights(
            _any(_ANSWERS, _BROWSED),
            _any(*mesh, _ANSWERS, _DEFAULT_EXCHANGE),
            _any(*mesh, _ANSWERS, _BROWSED),
            "monitoring",
        ),
    }


def _any(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"
