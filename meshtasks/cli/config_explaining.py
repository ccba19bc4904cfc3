"""An explanation as lines for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from meshtasks.cli.config_explain import Explanation, Reached


def lines(found: Explanation, urls: Collection[str]) -> Iterator[str]:
    """The lines.

    Args:
        found: what is explained.
        urls: names of the receivers that have a URL.
    """
    yield f"{found.routing_key} on exchange {found.exchange}"
    if found.unroutable:
        yield "  matches no binding: it becomes a dead letter"
        return
    for queue in found.queues:
        yield from _of_queue(queue, urls)
    if found.archived_one_in:
        share = (
            "every record"
            if found.archived_one_in == 1
            else f"one record in {found.archived_one_in}"
        )
        yield f"  archive     {share}, by way of {found.archive_queue}"
    else:
        yield "  archive     nothing"


def _of_queue(reached: Reached, urls: Collection[str]) -> Iterator[str]:
    yield f"  queue       {reached.queue}"
    if not reached.handler:
        yield "    no handler: whoever else consumes it"
        return
    yield f"    handler   {reached.handler}: {reached.does}"
    yield f"    sinks     {', '.join(reached.sinks) or 'none'}"
    for rule in reached.rules:
        about = f"{rule.severity}, {rule.type}, {rule.looks_at}"
        yield f"    rule      {rule.name}: {about}"
        yield from (f"      alert   {line}" for line in _told(rule.routes, urls))
    for workflow in reached.workflows:
        when = f", if {', '.join(workflow.when)} are so" if workflow.when else ""
        yield f"    workflow  {workflow.name}: {workflow.url}{when}"
    yield from (f"    alert     {line}" for line in _told(reached.alert_routes, urls))


def _told(
    routes: Mapping[str, tuple[str, ...]], urls: Collection[str]
) -> Iterator[str]:
    for route, receivers in routes.items():
        named = (name if name in urls else f"{name} (has no URL)" for name in receivers)
        yield f"route {route}: {', '.join(named)}"
