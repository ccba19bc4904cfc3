"""Which headers of a message are believed.

Whoever may publish a message chooses its headers, the ``x-mesh-…`` and the ``x-death``
among them. What cannot be chosen is the exchange a message is delivered from: the
broker says it, also behind bindings between exchanges and alternate exchanges. So the
mesh's own headers count on those exchanges only that senders may not publish to
(:mod:`meshtasks.amqp.rights`): the default exchange, by which retries, replays of
dead letters and replays of the archive come back, and the exchange of dead letters.

What is believed is bounded all the same: no value of a header may stop a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshtasks.amqp import headers
from meshtasks.amqp.selection import ARCHIVE_EXCHANGE, DEAD_LETTER_EXCHANGE

_PREFIX = "x-mesh-"
#: More retries than anybody configures, and one more is still an AMQP integer.
_LARGEST_COUNT = 1_000_000


def believed(table: dict[str, Any], exchange: str) -> dict[str, Any]:
    """The headers of a message, less those that its sender may have made up.

    Args:
        table: its headers.
        exchange: that it was delivered from.
    """
    if not exchange:
        return table
    kept = frozenset[str]()
    if exchange == DEAD_LETTER_EXCHANGE:
        last = last_death(table)
        if last is None or last.get("exchange") == "":
            return table
        # the broker took it, before the mesh had said anything of it
        kept = headers.BROKER_MANAGED
    elif exchange == ARCHIVE_EXCHANGE:
        kept = frozenset({headers.EXCERPTS})
    return {
        name: value
        for name, value in table.items()
        if name in kept
        or not (name.startswith(_PREFIX) or name in headers.DEATHS_OF_THE_BROKER)
    }


def last_death(table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the broker says of a message that it took from a queue itself, if it did.

    Only in a message from the exchange of dead letters is it certain that the broker
    has written it. The queue in it is then the one the message was taken from.
    """
    match table.get("x-death"):
        case [dict() as last, *_]:
            return last
        case _:
            return None


def count_in(table: Mapping[str, Any], name: str) -> int:
    """A number of times; 0 if there is none, or something else."""
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return max(0, min(value, _LARGEST_COUNT))


def past_in(table: Mapping[str, Any], name: str, now: float) -> float | None:
    """A moment that is over, epoch seconds; None if there is none, or something else
    (infinity, say)."""
    value = table.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= now else None


def text_in(table: Mapping[str, Any], name: str) -> str | None:
    """A text; None if there is none, or something else."""
    value = table.get(name)
    return value if isinstance(value, str) else None
