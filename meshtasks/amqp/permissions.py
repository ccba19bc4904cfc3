"""What an account may do on the broker, found out without doing it.

Only administrators may read permissions. But declaring again what is there needs the
right to declare it and changes nothing; and the right to publish is checked when a
message arrives in a transaction, which is then rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import amqp
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.topology import Exchange, Topology


def refused(url: str, topology: Topology) -> list[str]:
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
            if not _may(connection, partial(_find, name=name)):
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


def _find(channel: Any, name: str) -> None:
    channel.exchange_declare(name, "", passive=True)


def _declare(channel: Any, exchange: Exchange) -> None:
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
