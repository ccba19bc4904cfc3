"""Commands: work that is started by name and returns a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from meshtasks.config.durations import Duration
from meshtasks.errors import SchemaMismatch
from meshtasks.flows.sinks import Sinks
from meshtasks.records.models import explain

#: What a caller must be allowed: to put records into the mesh, to have it do work,
#: to look at the console, to change how it is operated (and look); to see the
#: gateway's metrics and nothing else.
Scope = Literal["publish", "trigger", "view", "operate", "metrics"]


#: Seconds, given as text.
Span = Annotated[
    Duration,
    Field(gt=0),
    WithJsonSchema({"type": "string", "examples": ["2h", "1h30m", "7d"]}),
]


class Arguments(BaseModel):
    """Base of the arguments of commands; there are no others than those named."""

    model_config = ConfigDict(frozen=True, extra="forbid")


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Command(Generic[A]):
    """A command.

    Attributes:
        name: of its Celery task.
        arguments: the model of its arguments.
        run: does it, and gives the answer, which is JSON. It is given its arguments,
            the process's sinks and the id of the call; called again with the same
            id, after its worker was killed, it does no more than called once.
        scopes: what a caller must be allowed, all of it.
    """

    name: str
    arguments: type[A]
    run: Callable[[A, Sinks, str], dict[str, Any]]
    scopes: frozenset[Scope]

    def call(
        self, arguments: Mapping[str, Any], sinks: Sinks, call_id: str
    ) -> dict[str, Any]:
        """Check the arguments and run the command.

        Raises:
            SchemaMismatch: an argument is missing, unknown or wrong.
            MeshError: what :attr:`run` raises.
        """
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise SchemaMismatch(explain(error)) from error
        return self.run(checked, sinks, call_id)
