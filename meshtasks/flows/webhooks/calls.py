"""The HTTP requests that the records of a batch come to; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from pydantic_core import to_json

from meshtasks.flows.excerpts import rfc3339
from meshtasks.flows.webhooks.config import Workflow
from meshtasks.flows.webhooks.events import Event
from meshtasks.outcome import DONE, Outcome
from meshtasks.records.envelope import Envelope

#: What a header may hold besides letters and digits, less the per cent sign.
_PLAIN = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


@dataclass(slots=True)
class Run:
    """One record and the workflows it starts.

    Attributes:
        id: the record's id.
        envelope: the message it came in.
        event: the record, its time and its place in the batch.
        workflows: to be called, in order.
        calls: what became of each call, by name of the workflow.
    """

    id: str
    envelope: Envelope
    event: Event
    workflows: tuple[Workflow, ...]
    calls: dict[str, Outcome] = field(default_factory=dict)

    @property
    def taken(self) -> list[str]:
        """The workflows that have taken it."""
        return [name for name, outcome in self.calls.items() if outcome is DONE]


class Request(NamedTuple):
    """One HTTP request: a workflow, and the records it is started by.

    Attributes:
        workflow: the workflow.
        runs: the records, at least one.
    """

    workflow: Workflow
    runs: list[Run]

    def body(self) -> bytes:
        """The record, or for a whole batch an array of records with their ids."""
        if self.workflow.webhook.send == "record":
            return to_json(self.runs[0].event.record, inf_nan_mode="null")
        entries = [
            {
                "id": run.id,
                "exchange": _unicode(run.envelope.exchange),
                "routing_key": _unicode(run.envelope.routing_key),
                "time": rfc3339(run.event.time),
                "record": run.event.record,
            }
            for run in self.runs
        ]
        return to_json(entries, inf_nan_mode="null")

    def headers(self) -> dict[str, str]:
        """The mesh's own headers. Values are percent-encoded where they are not
        printable ASCII."""
        name = self.workflow.name
        if self.workflow.webhook.send == "batch":
            ids = "\n".join(run.id for run in self.runs).encode()
            key = hashlib.blake2b(ids, digest_size=16).hexdigest()
            return {"Idempotency-Key": f"{key}/{name}", "X-Mesh-Workflow": name}
        (run,) = self.runs
        return {
            "Idempotency-Key": f"{_printable(run.id)}/{name}",
            "X-Mesh-Workflow": name,
            "X-Mesh-Exchange": _printable(run.envelope.exchange),
            "X-Mesh-Routing-Key": _printable(run.envelope.routing_key),
            "X-Mesh-Time": rfc3339(run.event.time),
        }

    def halves(self) -> Iterator[Request]:
        """The same for half of the records, and for the other half."""
        middle = len(self.runs) // 2
        yield Request(self.workflow, self.runs[:middle])
        yield Request(self.workflow, self.runs[middle:])

    def end_in(self, outcome: Outcome) -> None:
        """Say what became of it."""
        for run in self.runs:
            run.calls[self.workflow.name] = outcome


def requests_of(runs: Iterable[Run]) -> list[Request]:
    """The requests to make: record by record in the order of its workflows, and
    then those of the workflows that take whole batches."""
    single: list[Request] = []
    whole: dict[str, Request] = {}
    for run in runs:
        for workflow in run.workflows:
            if workflow.webhook.send == "record":
                single.append(Request(workflow, [run]))
            else:
                request = whole.setdefault(workflow.name, Request(workflow, []))
                request.runs.append(run)
    return [*single, *whole.values()]


def _printable(text: str) -> str:
    return quote(text, safe=_PLAIN, errors="replace")


def _unicode(text: str) -> str:
    """AMQP text may hold lone surrogates, which no JSON may."""
    return text.encode("utf-8", "replace").decode()
