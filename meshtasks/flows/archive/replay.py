"""Archived records, on their way through the mesh once more."""

from __future__ import annotations

from collections.abc import Callable

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.routing import PREDECLARED_EXCHANGES
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, Topology
from meshtasks.flows.archive.reading import ArchivedRecord


def replayed(record: ArchivedRecord, way: tuple[str, str], *, quiet: bool) -> Outgoing:
    """The message that brings a record to a queue once more.

    Its headers hold where the record was first published, when it was made (the time
    of a record without one of its own), and its id in the archive. It goes by an
    exchange on which these headers are trusted (:mod:`meshtasks.amqp.delivery`).

    Args:
        way: exchange and routing key that lead to its queue alone
            (:meth:`~meshtasks.amqp.topology.Topology.way_to`).
        quiet: no alerts and no webhooks.
    """
    table: dict[str, object] = {
        headers.ARCHIVED: record.id,
        headers.EXCHANGE: record.exchange,
        headers.ROUTING_KEY: record.routing_key,
        headers.RECEIVED_AT: record.time,
    }
    if quiet:
        table[headers.QUIET] = 1
    return Outgoing(
        *way,
        record.record,
        message_id=record.id,
        # AMQP's has whole seconds: what has them probably had one, and the alert
        # manager tells alerts apart by it.
        timestamp=record.time if record.time.is_integer() else None,
        headers=table,
    )


def way_back(topology: Topology) -> Callable[[str, str], tuple[str, ...]]:
    """A function that gives the queues of the mesh that a record of this exchange and
    routing key goes to; none if no binding leads to one.

    What devices published to one of the broker's own exchanges goes where the exchange
    behind it leads to: other devices listen there.
    """
    known: dict[tuple[str, str], tuple[str, ...]] = {}

    def find(exchange: str, routing_key: str) -> tuple[str, ...]:
        key = exchange, routing_key
        if key not in known:
            known[key] = _queues_of(topology, exchange, routing_key)
        return known[key]

    return find


def _queues_of(topology: Topology, exchange: str, routing_key: str) -> tuple[str, ...]:
    declared = {each.name for each in topology.exchanges} - {ARCHIVE_EXCHANGE}
    if exchange in PREDECLARED_EXCHANGES:
        candidates = [
            binding.to_exchange
            for binding in topology.all_bindings
            if binding.exchange == exchange and binding.to_exchange
        ]
    else:
        candidates = [exchange]
    for each in candidates:
        if each in declared:
            reached = topology.queues_reached(each, routing_key)
            if queues := tuple(n for n in topology.domain_queues if n in reached):
                return queues
    return ()
